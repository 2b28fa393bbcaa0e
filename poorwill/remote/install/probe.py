"""The first look at a machine, in one command: its engine, or what it has to install one with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poorwill.errors import HostUnfit
from poorwill.remote.base import OUTPUT_BYTES_MAX, Finished, Shell
from poorwill.remote.install import bundle
from poorwill.remote.install.wheels import GLIBC_MINOR_MIN, Target

MARK = "@poorwill@"
TIMEOUT_S = 120.0
"""Generous: an interpreter on a network file system takes seconds to start, and a dozen places are tried."""
PYTHON_NEWEST = (3, 14)
"""The newest Python that the pinned packages have wheels for; a newer one is used if there is no other."""
PYTHONS = (
    *("python3.14", "python3.13", "python3.12", "python3.11", "python3.10", "python3"),
    *("/usr/local/bin/python3", "/usr/bin/python3"),
    *("/opt/conda/bin/python", "/opt/miniconda3/bin/python", "/venv/main/bin/python"),
)
"""Where a Python is looked for: names on the PATH of a command over SSH, which is short, and where images put one."""
MACHINES = ("x86_64", "aarch64")
_LINES_MAX = 64
_INSTALLERS = {
    "apt-get": "apt-get install -y python3 python3-venv",
    "dnf": "dnf install -y python3.12",
    "yum": "yum install -y python3.11",
    "zypper": "zypper install -y python312",
    "pacman": "pacman -S --noconfirm python",
    "apk": "apk add python3",
}


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine on a machine. `python` and `home` (its ~/.poorwill) are absolute paths there."""

    python: str
    home: str
    digest: str
    reused: bool = True
    log: tuple[str, ...] = ()
    """Removed versions, GPU packages that could not be installed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A Python on the machine. `glibc_minor` is the Y of glibc 2.Y; None for another C library."""

    path: str
    version: tuple[int, int, int]
    missing: tuple[str, ...]
    glibc_minor: int | None
    machine: str
    usual: bool
    """Whether it is what wheels are built for: CPython of 64 bits with its global lock."""

    @property
    def label(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} at {self.path}"

    @property
    def target(self) -> Target:
        return Target(self.version[:2], self.machine, self.glibc_minor)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a machine without an engine has."""

    where: str
    pythons: tuple[Found, ...]
    gpu: bool
    home: bool
    installer: str

    def python(self, version_min: tuple[int, int], *, any_platform: bool) -> Found:
        """The newest Python that can run the engine; HostUnfit names what is missing.

        any_platform: the caller has its own wheels, for any C library and processor.
        """
        if not self.home:
            raise HostUnfit(
                f"{self.where}: HOME is not set, or not a writable directory; the engine is installed there"
            )
        new = [one for one in self.pythons if one.version[:2] >= version_min and one.usual]
        whole = [one for one in new if not one.missing]
        if not whole:
            raise HostUnfit(f"{self.where} {self._lack(new, version_min)}; {self._advice()}")
        best = max(whole, key=lambda one: (one.version[:2] <= PYTHON_NEWEST, one.version))
        if not any_platform:
            self._check_platform(best)
        return best

    def _lack(self, new: list[Found], version_min: tuple[int, int]) -> str:
        if new:
            return "; ".join(f"{one.label} lacks the modules {', '.join(one.missing)}" for one in new[:3])
        seen = ", ".join(
            one.label + ("" if one.usual else " (not a usual CPython of 64 bits)") for one in self.pythons[:4]
        )
        return f"has no Python {version_min[0]}.{version_min[1]} or newer" + (f" (found: {seen})" if seen else "")

    def _advice(self) -> str:
        command = _INSTALLERS.get(self.installer)
        return f"install it there, for example: {command}" if command else "choose an image that has one"

    def _check_platform(self, found: Found) -> None:
        if found.machine not in MACHINES:
            raise HostUnfit(f"{self.where} is a {found.machine} machine; the engine's packages exist for {MACHINES}")
        if found.glibc_minor is None or found.glibc_minor < GLIBC_MINOR_MIN:
            has = "another C library (musl)" if found.glibc_minor is None else f"glibc 2.{found.glibc_minor}"
            raise HostUnfit(
                f"{self.where} has {has}; the engine's packages need glibc 2.{GLIBC_MINOR_MIN} or newer: choose an "
                "image of Debian, Ubuntu, Fedora or the like"
            )


def look(shell: Shell, with_gpu: str, without: str, pythons: Sequence[str] = PYTHONS) -> Installed | Survey:
    """Look at a machine, in one round trip. `with_gpu` and `without` are the engine's directories below
    ~/.poorwill/engine, with the packages for a GPU and without them. HostUnfit if the answer is malformed.
    """
    command = shlex.join(["exec", "sh", "-s", "--", with_gpu, without, *pythons])
    done = shell.run(command, stdin=[bundle.script("probe.sh")], timeout_s=TIMEOUT_S)
    lines = marked(done)
    try:
        for key, value in lines:
            if key == "ready":
                engine = json.loads(value)
                return Installed(path(engine["python"]), path(engine["home"]), text(engine["digest"]))
        if ("end", "yes") in lines:
            unique = {one.path: one for one in (_found(json.loads(value)) for key, value in lines if key == "python")}
            facts = dict(lines)
            return Survey(
                shell.describe(),
                tuple(unique.values()),
                "gpu" in facts,
                "home" in facts,
                facts.get("installer", ""),
            )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        pass  # JSON has infinite numbers too
    raise HostUnfit(f"{shell.describe()} gave a malformed answer ({said(done)}): does its login print or exit?")


def marked(done: Finished) -> list[tuple[str, str]]:
    """Key and value of the marked lines in a command's output; a login may have printed anything before them."""
    lines = done.stdout[:OUTPUT_BYTES_MAX].decode("utf-8", "replace").split("\n")
    ours = [line.split(" ", 2) for line in lines if line.startswith(MARK + " ")]
    return [(words[1], words[2]) for words in ours[:_LINES_MAX] if len(words) == 3]


def said(done: Finished) -> str:
    """About a command that failed: its status, and a little of its output."""
    words = (done.stderr.strip() or done.stdout.strip())[:200].decode("utf-8", "replace").strip()
    return f"status {done.status}, {len(done.stdout)} bytes of output" + (f": {words}" if words else "")


def _found(facts: dict[str, Any]) -> Found:
    major, minor, micro = (int(number) for number in facts["version"])
    libc = text(facts["libc"] or "")
    usual = facts["implementation"] == "CPython" and facts["bits"] == 64 and facts["gil"] is True
    missing = tuple(text(name) for name in facts["missing"][:16])
    return Found(path(facts["path"]), (major, minor, micro), missing, _glibc(libc), text(facts["machine"]), usual)


def _glibc(libc: str) -> int | None:
    name, _, version = libc.partition(" ")
    return min(int(version.split(".")[1]), 99) if name == "glibc" else None


def text(value: Any) -> str:
    """A short printable string, else ValueError."""
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise ValueError(f"not a short string: {value!r:.80}")
    return value


def path(value: Any) -> str:
    """An absolute path, else ValueError."""
    if not text(value).startswith("/"):
        raise ValueError(f"not an absolute path: {value!r:.80}")
    return str(value)
