"""Whether a snapshot is a likely successor of an earlier one, or the workspace is gone, or another. Pure.

A mount that is missing, a folder that was moved away or a mistyped path give a snapshot that is whole, verified and
nearly empty. So neither is a machine destroyed, nor what came before removed, on the word of such a snapshot alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SHRANK, AFTERWARDS = "last before the workspace shrank", "first after the workspace shrank"
ELSEWHERE = "last of its directory, before another one was kept"
HOW_TO_INSIST = (
    "look whether something is missing there, as a mount or a folder; if it is meant, hibernate again with "
    'allow_shrink=True (in the API "allow_shrink": true, on the command line --allow-shrink)'
)


class Extent(NamedTuple):
    """How much a snapshot holds, and of which directory.

    meant: somebody said that it may hold much less than those before it (`allow_shrink`).
    """

    snapshot_id: str
    directory: str
    files: int
    data_bytes: int
    meant: bool = False

    @property
    def is_nothing(self) -> bool:
        return self.files == 0


def directory_of(workspace: str, instance: str) -> str:
    """The path of a workspace, normalised, as its machine sees it.

    A machine that is a directory of its host has the instance's name before all of its paths, and another one after
    each wake.
    """
    names: list[str] = []
    for name in workspace.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    above = names[:-1]
    if instance and instance in above:
        del names[: len(above) - above[::-1].index(instance)]
    return "/" + "/".join(names)


def lost(now: Extent, before: Extent) -> list[str]:
    """How more than half of an earlier snapshot's files or bytes went, in words; empty if they did not."""
    said = []
    for what, left, were in (("files", now.files, before.files), ("bytes", now.data_bytes, before.data_bytes)):
        if left * 2 < were:
            said.append(f"of {were} {what} in snapshot {before.snapshot_id} {left} are left")
    return said


def moved(now: Extent, before: Extent) -> list[str]:
    """That the two are of different directories, in words; empty if they are not."""
    if now.directory == before.directory:
        return []
    return [f"it is of {now.directory}, and snapshot {before.snapshot_id} is of {before.directory}"]


def is_successor(now: Extent, before: Extent) -> bool:
    """Whether the one may stand for the other."""
    return not now.is_nothing and not moved(now, before) and not lost(now, before)


def last_before_a_fall(now: Extent, oldest_first: Sequence[Extent]) -> Extent | None:
    """What `now` may not have lost most of: the last of its directory that is a likely successor of those before it, or
    that is meant. However many came after a fall, they do not hide it."""
    last: Extent | None = None
    for extent in oldest_first:
        if extent.meant:
            last = None
        if extent.directory == now.directory and not extent.is_nothing and (last is None or is_successor(extent, last)):
            last = extent
    return last


def kept_for_a_fall(oldest_first: Sequence[Extent]) -> dict[str, str]:
    """Snapshot id -> reason: of one machine, what is not to be given up until somebody says so.

    That is the last snapshot before the workspace shrank, with the first one after that, which is the evidence; and the
    last one of each directory but that of the newest snapshot. A later snapshot that was meant to be smaller says so.
    """
    kept: dict[str, str] = {}
    last: dict[str, Extent] = {}
    for extent in oldest_first:
        before = last.get(extent.directory)
        if extent.meant:
            kept, last = {}, {extent.directory: extent}
        elif before is not None and not is_successor(extent, before):
            if kept.get(before.snapshot_id) != SHRANK:
                kept[before.snapshot_id] = SHRANK
                kept.setdefault(extent.snapshot_id, AFTERWARDS)
        elif not extent.is_nothing:
            last[extent.directory] = extent
    for directory, extent in last.items():
        if directory != oldest_first[-1].directory:
            kept.setdefault(extent.snapshot_id, ELSEWHERE)
    return kept
