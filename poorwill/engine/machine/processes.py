"""The processes of a machine, as /proc lists them (man 5 proc)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from poorwill.errors import HostUnfit

PROCESSES_MAX = 100_000
FILE_BYTES_MAX = 64 << 10
_PTS_MAJORS = range(136, 144)


@dataclass(frozen=True, slots=True)
class Process:
    """`name` is what the kernel calls it, at most 15 bytes. `terminal` is the N of its /dev/pts/N, or None."""

    pid: int
    parent: int
    name: str
    terminal: int | None


def read_text(path: Path, bytes_max: int = FILE_BYTES_MAX) -> str:
    """The beginning of a file. OSError."""
    with open(path, "rb") as file:
        return file.read(bytes_max).decode("utf-8", "replace")


def boot_id(root: Path) -> str:
    """Another text each time the machine is started. OSError."""
    return read_text(root / "proc/sys/kernel/random/boot_id").strip()


def read_processes(root: Path) -> dict[int, Process]:
    """All of them by pid, without those that have ended. HostUnfit where /proc shows only our own (`hidepid`)."""
    proc = root / "proc"
    try:
        read_text(proc / "1/stat")
        names = [name for name in os.listdir(proc) if name.isdecimal()]
    except OSError as error:
        raise HostUnfit(f"processes of others cannot be seen: {proc}: {error.strerror}") from None
    if len(names) > PROCESSES_MAX:
        raise HostUnfit(f"{proc} lists {len(names)} processes, at most {PROCESSES_MAX} are read")
    found = (_process(proc / name) for name in names)
    return {process.pid: process for process in found if process is not None}


def arguments(root: Path, pid: int) -> list[str]:
    """Its command line, or what it has written over that; empty when it is gone."""
    try:
        return read_text(root / "proc" / str(pid) / "cmdline").split("\0")
    except OSError:
        return []


def runs(root: Path, pid: int, since: str) -> bool:
    """Whether the process `pid` that began at `since` runs, or is stopped: not one that has ended, nor a later one."""
    try:
        fields = _fields(read_text(root / "proc" / str(pid) / "stat"))
        return fields[0] not in "ZX" and fields[19] == since
    except (OSError, IndexError):
        return False


def parent_of(root: Path, pid: int) -> int:
    """0 when it is gone, or when its parent is outside of what /proc shows."""
    try:
        return int(_fields(read_text(root / "proc" / str(pid) / "stat"))[1])
    except (OSError, IndexError, ValueError):
        return 0


def born(root: Path, pid: int) -> str:
    """When it began, in clock ticks since the machine was started; "" when it is gone."""
    try:
        return _fields(read_text(root / "proc" / str(pid) / "stat"))[19]
    except (OSError, IndexError):
        return ""


def _process(folder: Path) -> Process | None:
    try:
        text = read_text(folder / "stat")
        state, parent, _, _, terminal, *_ = _fields(text)
        if state in "ZX":
            return None
        name = text[text.index("(") + 1 : text.rindex(")")]
        return Process(int(folder.name), int(parent), name, _pts(int(terminal)))
    except (OSError, ValueError):
        return None  # it ended while it was looked at


def _fields(stat: str) -> list[str]:
    """From the third on: the second is the name in parentheses, which may hold anything."""
    return stat.rpartition(")")[2].split()


def _pts(device: int) -> int | None:
    """Of the kernel's number of a controlling terminal: bits 31-20 and 7-0 are the minor, 15-8 the major number."""
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xFFF00)
    return (major - _PTS_MAJORS.start) * 256 + minor if major in _PTS_MAJORS else None
