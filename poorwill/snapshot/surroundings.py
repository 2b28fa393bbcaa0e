"""What an engine tells of a workspace beside its files: which directory it is, and what of it lies elsewhere.

Pure. The same records stand in the engine's answers and in the metadata; docs/snapshot-format.md says what they mean.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from poorwill.errors import one_line
from poorwill.snapshot.fields import Length

MOUNTS_MAX = 200
LINKS_MAX = BESIDE_MAX = SHOWN_MAX = 20
TEXT_MAX = 1000
_Text = Annotated[str, Length(TEXT_MAX)]


class Mount(NamedTuple):
    """A file system mounted below a workspace, at `path` below it. subtree: which directory of that file system."""

    path: _Text
    device: int
    subtree: _Text
    kind: _Text


class Root(NamedTuple):
    """Which directory a workspace is, and what is mounted below it. device, inode: as stat(2) gives them."""

    device: int
    inode: int
    mounts: Annotated[tuple[Mount, ...], Length(MOUNTS_MAX)]


class Woken(NamedTuple):
    """The snapshot that was last restored into a workspace. partial: not all of it, but what `include` named."""

    machine: Annotated[str, Length(63)]
    snapshot_id: Annotated[str, Length(25)]
    partial: bool


class LinksOut(NamedTuple):
    """Symbolic links of a workspace that lead out of it: how many, and some of them with their targets."""

    total: int
    shown: Annotated[tuple[_Text, ...], Length(LINKS_MAX)]


class Surroundings(NamedTuple):
    """All of it. beside: some disks and shares that are mounted elsewhere on the machine."""

    root: Root
    links_out: LinksOut = LinksOut(0, ())
    woken: Woken | None = None
    beside: Annotated[tuple[_Text, ...], Length(BESIDE_MAX)] = ()

    def not_kept(self) -> list[str]:
        """What a restore of the snapshot does not bring back, or not as it was, in lines that may be printed."""
        links, mounts = self.links_out, [f"{mount.path} ({mount.kind})" for mount in self.root.mounts]
        said = [
            (links.shown, links.total, "links lead out of the workspace, and what they lead to is not kept"),
            (mounts, len(mounts), "mounted inside the workspace; kept, and restored as files of one directory"),
            (self.beside, len(self.beside), "mounted outside of the workspace, and not kept"),
        ]
        lines = [
            f"{what}: {', '.join(shown[:SHOWN_MAX])}" + (f" and {count - SHOWN_MAX} more" if count > SHOWN_MAX else "")
            for shown, count, what in said
            if count
        ]
        return [one_line(line.encode("utf-8", "backslashreplace").decode()) for line in lines]


def departed(before: Root, now: Root, snapshot_id: str) -> list[str]:
    """How the directory is another than in an earlier snapshot of the same machine, in words; empty if it is not.

    Devices may be numbered anew when a machine is started, a directory may be made anew where it was, and what comes to
    be mounted takes nothing away.
    """
    another = before.inode != now.inode and before.device != now.device
    said = [f"it is on another file system than in snapshot {snapshot_id}"] if another else []
    there = {mount.path for mount in now.mounts}
    gone = [f"{mount.path} ({mount.kind})" for mount in before.mounts if mount.path not in there]
    if gone:
        said.append(f"mounted in snapshot {snapshot_id}, and not any more, or left out: {', '.join(gone[:SHOWN_MAX])}")
    return said


def another_root(before: Root, now: Root, may_come: bool = False) -> list[str]:
    """How the directory that is there now is another than before, in words; empty if it is the same.

    may_come: whether there may be mounts that were not there before.
    """
    said = []
    if (before.device, before.inode) != (now.device, now.inode):
        said.append(
            f"it is another directory (device {now.device}, inode {now.inode}; it was device {before.device}, "
            f"inode {before.inode})"
        )
    was, is_ = ({mount.path: mount for mount in root.mounts} for root in (before, now))
    said += [f"{path} ({was[path].kind}) is mounted no more" for path in was if path not in is_]
    if not may_come:
        said += [f"{path} ({is_[path].kind}) was mounted" for path in is_ if path not in was]
    said += [
        f"at {path} another file system is mounted ({is_[path].kind} for {was[path].kind})"
        for path in was
        if path in is_ and is_[path] != was[path]
    ]
    return said
