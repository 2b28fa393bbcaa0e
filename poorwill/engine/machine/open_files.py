"""Which regular files the processes of a machine have open for writing, or mapped shared and writable (man 5 proc)."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

PROC = "/proc"
PROCESSES_MAX = 100_000
MAPS_BYTES_MAX = 64 << 20
_MAPPING = re.compile(
    rb"^(?P<range>[0-9a-f]+-[0-9a-f]+) [r-]w[x-]s [0-9a-f]+ (?P<major>[0-9a-f]+):(?P<minor>[0-9a-f]+) "
    rb"(?P<inode>[1-9][0-9]*) +(?P<path>/.*)$",
    re.MULTILINE,
)
_WRITABLE = (b"w-s ", b"wxs ")
_FLAGS = re.compile(rb"^flags:\s*([0-7]+)", re.MULTILINE)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
_DELETED = b" (deleted)"
_NO_FILES_OF_DISKS = (
    b"/dev/",
    b"/memfd:",
    b"/SYSV",
    b"/proc/",
    b"/sys/",
    b"/anon_hugepage",
    b"/i915",
    b"/drm mm object",
)
_KERNEL_THREAD = 0x00200000
KERNEL = 0
"""Stands for a pid: the kernel itself writes, to a file that is a disk (losetup(8))."""

Identity = tuple[int, int]
"""`st_dev` and `st_ino` of a file."""


class OpenFile(NamedTuple):
    """One file that a process can write to. identities: what the file may be known by: a file system that is laid over
    others (overlay, btrfs) shows one device to stat(2) and another one among a process's mappings."""

    pid: int
    mapped: bool
    identities: tuple[Identity, ...]


class Look(NamedTuple):
    """What was found. hidden: processes that could not be looked into, or at least one if they do not even show."""

    files: tuple[OpenFile, ...]
    hidden: int


def look(*, descriptors: bool, below: bytes = b"/", proc: str = PROC) -> Look:
    """Look into every process but this one. descriptors: mappings alone do not tell enough.

    below: the directory that is asked about, by which devices and the like are passed over without a look.
    """
    passed_over = tuple(prefix for prefix in _NO_FILES_OF_DISKS if not below.startswith(prefix.rstrip(b"/")))
    files: list[OpenFile] = []
    hidden = 0
    try:
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError:
        return Look((), 1)
    if 1 not in pids:
        hidden += 1  # mounted with hidepid: nobody knows how many more there are
    hidden += max(0, len(pids) - PROCESSES_MAX)
    own = _own_pid(proc)
    for pid in pids[:PROCESSES_MAX]:
        if pid == own:
            continue
        try:
            for task in _tasks(proc, pid):
                if descriptors:
                    files += (OpenFile(pid, False, (found,)) for found in _descriptors(task, passed_over))
                files += (OpenFile(pid, True, found) for found in _mappings(task, passed_over))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except OSError:
            hidden += 1
    if descriptors:
        files += (OpenFile(KERNEL, False, (found,)) for found in _disks())
    return Look(tuple(dict.fromkeys(files)), hidden)


def _disks(blocks: str = "/sys/block") -> Iterator[Identity]:
    """Files that are loop devices' disks, and may be written."""
    for folder in glob.glob(f"{blocks}/loop*"):
        with suppress(OSError):
            if _read(f"{folder}/ro", 8).strip() == b"0":
                info = os.stat(_read(f"{folder}/loop/backing_file", 1 << 16).rstrip(b"\n"))
                yield info.st_dev, info.st_ino


def _own_pid(proc: str) -> int:
    try:
        return int(os.path.basename(os.readlink(f"{proc}/self")))
    except (OSError, ValueError):
        return os.getpid()


def _tasks(proc: str, pid: int) -> list[str]:
    """Where to look for what a process has; nowhere for a thread of the kernel and for one that has ended.

    A process whose first thread has ended has all of it in the others.
    """
    folder = f"{proc}/{pid}"
    state, *fields = _read(f"{folder}/stat", 4096).rpartition(b")")[2].split()
    if int(fields[5]) & _KERNEL_THREAD:
        return []
    if state not in (b"Z", b"X"):
        return [folder]
    return [f"{folder}/task/{name}" for name in os.listdir(f"{folder}/task") if name != str(pid)][:1]


def _descriptors(task: str, passed_over: tuple[bytes, ...]) -> Iterator[Identity]:
    for name in os.listdir(f"{task}/fd"):
        try:
            path = os.readlink(f"{task}/fd/{name}".encode())
            if not path.startswith(b"/") or path.startswith(passed_over):
                continue  # a pipe, a socket, a device
            flags = _FLAGS.search(_read(f"{task}/fdinfo/{name}", 4096))
            if flags is None or int(flags[1], 8) & os.O_ACCMODE == os.O_RDONLY:
                continue
            info = os.stat(f"{task}/fd/{name}")
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
        if stat.S_ISREG(info.st_mode):
            yield info.st_dev, info.st_ino


def _mappings(task: str, passed_over: tuple[bytes, ...]) -> Iterator[tuple[Identity, ...]]:
    maps = _read(f"{task}/maps", MAPS_BYTES_MAX)
    if len(maps) == MAPS_BYTES_MAX:
        raise OSError(f"{task}/maps is longer than {MAPS_BYTES_MAX} bytes")
    if not any(mode in maps for mode in _WRITABLE):
        return  # as almost everywhere: found out in a tenth of the time
    for found in _MAPPING.finditer(maps):
        if found["path"].startswith(passed_over):
            continue
        device = os.makedev(int(found["major"], 16), int(found["minor"], 16))
        identities = [(device, int(found["inode"])), *_named(task, found["range"], found["path"])]
        yield tuple(dict.fromkeys(identities))


def _named(task: str, addresses: bytes, path: bytes) -> Iterator[Identity]:
    """What stat(2) says of a mapped file: through the mapping, which only root may ask, and by its name."""
    paths = [f"{task}/map_files/".encode() + addresses]
    if not path.endswith(_DELETED):
        name = _ESCAPED.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), path)
        paths.append(name if _sees_the_same(task) else f"{task}/root".encode() + name)
    for each in paths:
        try:
            info = os.stat(each)
        except OSError:
            continue
        yield info.st_dev, info.st_ino


def _sees_the_same(task: str) -> bool:
    """Whether names mean there what they mean here."""
    try:
        return os.readlink(f"{task}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return True


def _read(path: str, bytes_max: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        parts, left = [], bytes_max
        while left and (part := file.read(min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)
