"""Which SSH server test machines run: OpenSSH's where it is there or can be installed, else an embedded one."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.apt import AptInstaller

ENVIRONMENT_VARIABLE = "POORWILL_TEST_SSHD"
SEARCH_PATH = (*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin")
_ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Software:
    """path: of sshd, None for the embedded server. why: what speaks for the embedded one."""

    path: Path | None
    version: tuple[int, int] = (0, 0)
    why: str = ""

    def __str__(self) -> str:
        if self.path is not None:
            return f"OpenSSH {self.version[0]}.{self.version[1]} ({self.path})"
        return f"embedded, by asyncssh ({self.why})"


class Installer(Protocol):
    def obstacle(self) -> str:
        """Why it cannot install sshd here; "" if it may try."""
        ...

    def install(self) -> None:
        """Install sshd, once. OSError, in one line, if that fails."""
        ...


def obstacle_to_logging_in() -> str:
    """Why the user who runs the tests could not log in through an sshd of their own."""
    try:
        user = pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"user id {os.geteuid()} has no name here"
    if Path(user.pw_shell).name in ("nologin", "false"):
        return f"the shell of {user.pw_name} is {user.pw_shell}"
    try:
        shadow = _said(["getent", "shadow", user.pw_name])
    except OSError:
        return ""
    # Without PAM, sshd refuses an account that is locked also when a key is offered.
    return f"the account {user.pw_name} is locked" if shadow.startswith(f"{user.pw_name}:!") else ""


def choose(
    *,
    installer: Installer,
    search_path: Sequence[str] = SEARCH_PATH,
    environment: Mapping[str, str] = os.environ,
    login_obstacle: Callable[[], str] = obstacle_to_logging_in,
) -> Software:
    """The software for this run of the tests; installs it where it is missing and may be."""
    if environment.get(ENVIRONMENT_VARIABLE) == "embedded":
        return Software(None, why=f"{ENVIRONMENT_VARIABLE}=embedded")
    if obstacle := login_obstacle():
        return Software(None, why=obstacle)
    found = find(search_path)
    if found is not None:
        return found
    if obstacle := installer.obstacle():
        return Software(None, why=f"sshd is missing; {obstacle}")
    try:
        installer.install()
    except OSError as error:
        return Software(None, why=f"sshd is missing; {error}")
    return find(search_path) or Software(None, why="sshd is missing, also after its package was installed")


def preview(installer: Installer) -> str:
    """What `choose` would choose, without installing anything."""
    if os.environ.get(ENVIRONMENT_VARIABLE) != "embedded" and find() is None and not installer.obstacle():
        return "OpenSSH is missing: it is installed when first needed"
    return str(choose(installer=installer))


def find(search_path: Sequence[str] = SEARCH_PATH) -> Software | None:
    path = shutil.which("sshd", path=os.pathsep.join(search_path))
    if path is None:
        return None
    # Old ones do not know -V, and say their version when they complain.
    said = re.search(r"OpenSSH_(\d+)\.(\d+)", _said([path, "-V"]))
    return None if said is None else Software(Path(path).absolute(), (int(said[1]), int(said[2])))


def _said(command: list[str]) -> str:
    """Both outputs of a command, however it ends."""
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_ASK_TIMEOUT_S
    )
    return ended.stdout.decode(errors="replace")


def installer() -> AptInstaller:
    """Of OpenSSH's server."""
    return AptInstaller("openssh-server", lambda: find() is not None)
