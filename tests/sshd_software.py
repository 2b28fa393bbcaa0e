"""Which SSH server test machines run: OpenSSH's where it is there or can be installed, else an embedded one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ENVIRONMENT_VARIABLE = "POORWILL_TEST_SSHD"
SEARCH_PATH = (*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin")
INSTALL_TIMEOUT_S = 90.0
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


class AptInstaller:
    """Installs openssh-server with apt-get, without starting it.

    `folder` remembers an attempt that failed, so that only one run of the tests waits for it.
    """

    def __init__(self, folder: Path = Path("/run/poorwill-tests"), timeout_s: float = INSTALL_TIMEOUT_S) -> None:
        self._failed, self._lock = folder / "sshd-failed", folder / "sshd-lock"
        self._timeout_s = timeout_s

    def obstacle(self) -> str:
        if os.geteuid() != 0:
            return "only root could install it"
        if shutil.which("apt-get") is None:
            return "there is no apt-get to install it"
        if Path("/run/systemd/system").exists():
            return "installing it would enable an SSH server of this whole machine: apt install openssh-server"
        if self._failed.exists():
            return f"installing it failed before: {self._failed.read_text()} (remove {self._failed} to try again)"
        return ""

    def install(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        self._lock.parent.mkdir(mode=0o700, exist_ok=True)
        with open(self._lock, "w") as lock:
            _locked(lock.fileno(), deadline)
            if find() is not None:
                return
            try:
                with _services_stay_down():
                    self._apt_get(["update"], deadline)
                    self._apt_get(["install", "-y", "--no-install-recommends", "openssh-server"], deadline)
            except OSError as error:
                self._failed.write_text(str(error))
                raise

    def _apt_get(self, arguments: list[str], deadline: float) -> None:
        command = ["apt-get", "-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", *arguments]
        process = subprocess.Popen(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise OSError(f"apt-get {arguments[0]} took too long") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        if process.returncode != 0:
            end = said.decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"apt-get {arguments[0]} failed: {' '.join(end)}")


def _locked(fd: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError("another run of the tests is installing it, for too long") from None
            time.sleep(0.1)


@contextlib.contextmanager
def _services_stay_down(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Within it, Debian's maintainer scripts start no service: see "policy-rc.d" in invoke-rc.d(8)."""
    try:
        fd = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield  # somebody else decides, in a container image mostly to the same end
        return
    try:
        with open(fd, "w") as file:
            file.write("#!/bin/sh\nexit 101\n")
        yield
    finally:
        policy.unlink()
