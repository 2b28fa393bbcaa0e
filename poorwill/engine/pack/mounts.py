"""The file systems that are mounted at a workspace and below it, as the kernel lists them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from poorwill.snapshot.surroundings import BESIDE_MAX, TEXT_MAX

MOUNTINFO = "/proc/self/mountinfo"
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class MountLine(NamedTuple):
    """One mount (proc_pid_mountinfo(5)).

    device: as `st_dev` has it. subtree: the directory of the file system that stands at `path`. options: those of the
    mount and of the file system.
    """

    path: bytes
    device: int
    subtree: bytes
    kind: str
    source: bytes
    options: frozenset[str]


def mount_table(path: str = MOUNTINFO) -> list[MountLine]:
    """Every mount that this process sees, later ones on top of earlier ones. Empty where the kernel lists none."""
    try:
        with open(path, "rb") as file:
            return [line for line in map(_parsed, file) if line is not None]
    except OSError:
        return []


def _parsed(line: bytes) -> MountLine | None:
    before, dash, behind = line.rstrip(b"\n").partition(b" - ")
    fields, described = before.split(b" "), behind.split(b" ")
    if not dash or len(fields) < 6 or len(described) < 3:
        return None
    major, _, minor = fields[2].partition(b":")
    options = b",".join((fields[5], described[2])).decode("utf-8", "replace")
    return MountLine(
        path=_unescaped(fields[4]),
        device=os.makedev(int(major), int(minor)),
        subtree=_unescaped(fields[3]),
        kind=described[0].decode("utf-8", "replace"),
        source=_unescaped(described[1]),
        options=frozenset(options.split(",")),
    )


def _unescaped(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field)


def mount_of(path: bytes, table: list[MountLine]) -> MountLine | None:
    """The mount that `path`, a real path, lies on: of the longest mount points the last, which hides the others."""
    best = None
    for line in table:
        above = line.path == path or path.startswith(line.path.rstrip(b"/") + b"/")
        if above and (best is None or len(line.path) >= len(best.path)):
            best = line
    return best


def mounts_beside(root: bytes, table: list[MountLine]) -> tuple[str, ...]:
    """Disks and shares that are mounted somewhere else than in `root`, a real path, with their kinds: some of them."""
    said = []
    for line in table:
        local, mounted = line.source.startswith(b"/dev/"), line.path.rstrip(b"/") + b"/"
        if (
            mounted.startswith(root + b"/")
            or (root + b"/").startswith(mounted)
            or not (local or b":" in line.source or line.source.startswith(b"//"))
        ):
            continue
        if not local or os.path.isdir(line.path):  # a share that hangs is not looked at
            said.append(f"{os.fsdecode(line.path)} ({line.kind})"[:TEXT_MAX])
    return tuple(dict.fromkeys(said))[:BESIDE_MAX]


def mounts_below(
    root: bytes, table: list[MountLine], unseen: Callable[[bytes], bool] = lambda below: False
) -> dict[bytes, MountLine]:
    """What is mounted below `root`, a real path, by the path below it. unseen: which of these paths do not count."""
    start = root.rstrip(b"/") + b"/"
    found: dict[bytes, MountLine] = {}
    for line in table:
        below = line.path[len(start) :] if line.path.startswith(start) else b""
        if below and not unseen(below):
            found[below] = line
    return found
