"""Whether a workspace is the same directory at each scan, with the same file systems mounted in it.

What is below a mount that went is missing in a scan, and what lies under one that came is hidden: by the files alone,
that is the same as if somebody had removed them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poorwill.engine import last_wake
from poorwill.engine.pack.links_out import links_out
from poorwill.engine.pack.mounts import MountLine, mount_table, mounts_below, mounts_beside
from poorwill.engine.pack.scan import INODE_MASK, Scan
from poorwill.errors import UsageError, WorkspaceError
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.shrinkage import HOW_TO_INSIST
from poorwill.snapshot.surroundings import MOUNTS_MAX, TEXT_MAX, LinksOut, Mount, Root, Surroundings, another_root


class RootWatch:
    """Compares one workspace with what it was at the first scan. Mounts in what is excluded do not count, and with
    `allow_shrink` nothing does."""

    def __init__(self, settings: PackSettings, table: Callable[[], list[MountLine]] = mount_table) -> None:
        self._workspace, self._exclude, self._table = settings.workspace, Globs(settings.exclude), table
        self._may_change = settings.allow_shrink
        self._first: Root | None = None

    @contextmanager
    def scanning(self) -> Iterator[None]:
        """Around each scan. WorkspaceError, before or after it, for another directory, or a mount that came or went.

        During the first one mounts may come: some do when they are first looked into.
        """
        before = self._look()
        if self._first is not None:
            self._compare(self._first, before)
        yield
        after = self._look()
        self._compare(self._first or before, after, may_come=self._first is None)
        self._first = self._first or after

    def surroundings(self, scan: Scan | None = None) -> Surroundings:
        """What the first scan found; of mounts, the first MOUNTS_MAX. Links are those of `scan`."""
        assert self._first is not None
        root = os.fsencode(self._workspace)
        return Surroundings(
            self._first._replace(mounts=self._first.mounts[:MOUNTS_MAX]),
            links_out(scan, root) if scan is not None else LinksOut(0, ()),
            last_wake.recall(root),
            mounts_beside(os.path.realpath(root), self._table()),
        )

    def _compare(self, was: Root, now: Root, may_come: bool = False) -> None:
        differences = another_root(was, now, may_come)
        if differences and not self._may_change:
            raise WorkspaceError(
                f"{self._workspace} is not what it was when the snapshot was begun: {'; '.join(differences[:10])}: "
                f"no snapshot of it was committed; mount what is missing, and take a new one; {HOW_TO_INSIST}"
            )

    def _look(self) -> Root:
        root = os.path.realpath(os.fsencode(self._workspace))
        try:
            info = os.stat(root)
        except OSError as error:
            raise WorkspaceError(f"workspace {self._workspace}: {error.strerror}: nothing was read") from None
        if os.path.samestat(info, os.stat("/")):
            raise UsageError(f"workspace '{self._workspace}' is the whole machine: name a directory on it")
        found = mounts_below(root, self._table(), self._exclude.covers)
        return Root(info.st_dev, info.st_ino & INODE_MASK, tuple(_told(below, found[below]) for below in sorted(found)))


def _told(below: bytes, mount: MountLine) -> Mount:
    return Mount(
        os.fsdecode(below)[:TEXT_MAX], mount.device, os.fsdecode(mount.subtree)[:TEXT_MAX], mount.kind[:TEXT_MAX]
    )
