"""The directory that a snapshot is taken of, while others may write to it: how it is looked at."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from poorwill.engine import state
from poorwill.engine.machine import open_files, processes, stopping
from poorwill.engine.machine.open_files import Identity, OpenFile
from poorwill.engine.meter import Meter
from poorwill.engine.pack.file_systems import Distrusted, FileSystems
from poorwill.engine.pack.mounts import MountLine, mount_of, mount_table, mounts_below
from poorwill.engine.pack.scan import INODE_MASK, Scan, Walk
from poorwill.engine.protocol.answers import LeftOut, Writer
from poorwill.engine.protocol.asking import TEXT_MAX
from poorwill.engine.protocol.context import Context
from poorwill.errors import WorkspaceError
from poorwill.snapshot import fields, limits
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.tables import Kind

WALKS_MAX = 4
PATHS_SHOWN = 20
TEMPORARY = b"/tmp"


@dataclass(slots=True)
class Seen:
    """What one look found: the files, and what else can write to them.

    writers: files of the workspace that processes have open for writing, or mapped so. hidden: processes that could not
    be looked into; doubtful: for each entry, whether one of them may change it unseen. distrusted: file systems with
    files, or other hosts, whose times do not tell of all writes. ahead: whether there are times ahead of the clock.
    """

    scan: Scan
    doubtful: Array
    ahead: bool
    writers: list[Writer] = field(default_factory=list)
    hidden: int = 0
    distrusted: list[Distrusted] = field(default_factory=list)


class Workspace:
    """Looks at what is below `root`; what matches `exclude` is left alone."""

    def __init__(self, root: bytes, exclude: Globs, file_systems: FileSystems, meter: Meter) -> None:
        self.root, self.exclude = os.path.realpath(root), exclude
        self._file_systems, self._meter = file_systems, meter
        self._state_dir = os.path.realpath(os.fsencode(state.state_dir()))

    def look(self, context: Context, skip: Collection[bytes], *, descriptors: bool = False) -> Seen:
        """Flush, then walk: whatever is written after that moves the times of its file, or the file is `mapped`.

        skip: paths below the workspace that are left alone, too. descriptors: whether to look for all writers, and not
        only, where times cannot be trusted, for mappings. WorkspaceError for what cannot be flushed or read.
        """

        def count(entries: int) -> None:
            context.check()
            self._meter.set(entries=entries)

        skipped = frozenset(skip)
        for _ in range(WALKS_MAX):
            at_ns = self._file_systems.clock()
            elsewhere = [path for path in (self._state_dir, TEMPORARY) if not self._touches(path)]
            known = self._file_systems.flush(self._mounts(), elsewhere, context)
            distrusted = {device: found for device, found in self._file_systems.distrusted.items() if device in known}
            opened = open_files.Look((), 0)
            if descriptors or distrusted:  # after the clock was read: whoever maps a file later moves its times
                opened = open_files.look(descriptors=descriptors, below=self.root)
            scan = Walk(self.root, self.exclude, skipped, self._state_dir, count).run(at_ns)
            unknown = self._unknown(scan, known)
            if not unknown:
                return self._seen(scan, opened, distrusted)
            self._file_systems.met.update(dict.fromkeys(unknown))
        names = ", ".join(os.fsdecode(path) for path in unknown[:3])
        raise WorkspaceError(f"file systems came and went below {os.fsdecode(self.root)} ({names}): try again")

    def end_writers(self, seen: Seen, context: Context, skip: Collection[bytes]) -> Seen:
        """Ask those who write there to end, and look again; `writers` are then those that did not.

        Where some must not be asked, nobody is: `writers` are then those.
        """
        opened = open_files.look(descriptors=True, below=self.root)  # a walk takes long, and pids are used again
        pids = {file.pid for file, _ in _of(seen.scan, opened)}
        spared = stopping.never_signalled(pids, os.getpid())
        if spared:
            return replace(seen, writers=[writer for writer in seen.writers if writer.pid in spared] or seen.writers)
        stopping.stop(pids)
        context.check()
        return self.look(context, skip, descriptors=True)

    def _mounts(self) -> list[MountLine]:
        """Where to flush: the root, what is mounted below it, and what else an earlier walk has come across."""
        table = mount_table()
        start = self.root.rstrip(b"/") + b"/"
        paths = [self.root, *(start + below for below in mounts_below(self.root, table, self.exclude.covers))]
        met = [path for path in self._file_systems.met if path.startswith(start)]
        paths += [path for path in met if not self.exclude.covers(path[len(start) :])]
        unlisted = MountLine(self.root, 0, b"/", "file system", b"", frozenset())
        return [(mount_of(path, table) or unlisted)._replace(path=path) for path in dict.fromkeys(paths)]

    def _touches(self, path: bytes) -> bool:
        """Whether a file made in that directory would change what is looked at."""
        return path == self.root or (path.startswith(self.root.rstrip(b"/") + b"/") and path != self._state_dir)

    def _unknown(self, scan: Scan, known: Collection[int]) -> list[bytes]:
        """Directories on file systems that were not flushed: subvolumes, and what was mounted only now."""
        directories = np.flatnonzero(scan.entries.kind == Kind.DIRECTORY)
        devices, first = np.unique(scan.devices[directories], return_index=True)
        pairs = zip(devices.tolist(), directories[first].tolist(), strict=True)
        return [scan.path(row) for device, row in pairs if device not in known]

    def _seen(self, scan: Scan, opened: open_files.Look, distrusted: dict[int, Distrusted]) -> Seen:
        devices, files = np.array(sorted(distrusted), np.int64), scan.entries.kind == Kind.FILE
        # Beside a file's own device that of its directory: on some overlays files have devices of their own.
        above = scan.devices[scan.entries.parent]
        blind = np.isin(scan.devices, devices) | np.isin(above, devices)
        with_files = {*np.unique(scan.devices[files]).tolist(), *np.unique(above[files]).tolist()}
        writers: dict[tuple[int, int], Writer] = {}
        for file, row in _of(scan, opened):
            known = writers.get((file.pid, row)) or _writer(scan, file.pid, row)
            writers[file.pid, row] = known._replace(mapped=known.mapped or file.mapped)
            scan.mapped[row] |= file.mapped and blind[row]
        doubtful = blind & files if opened.hidden else np.zeros(len(blind), bool)
        ahead = bool((scan.entries.ctime_ns > self._file_systems.clock()).any())
        told = [found for device, found in distrusted.items() if found.shared or device in with_files]
        return Seen(scan, doubtful, ahead, list(writers.values()), opened.hidden, told)


def check_readable(unreadable: Sequence[LeftOut], settings: PackSettings) -> None:
    """WorkspaceError that names what cannot be read, unless that may be left out."""
    if unreadable and not settings.skip_unreadable:
        shown = "; ".join(f"{os.fsdecode(left.path)}: {left.reason}" for left in unreadable[:PATHS_SHOWN])
        raise WorkspaceError(
            f"{len(unreadable)} entries of {settings.workspace} cannot be read: {shown}: "
            "make them readable, exclude them, or skip what is unreadable",
            unreadable=[fields.write(left) for left in unreadable[: limits.LEFT_OUT_MAX]],
        )


def rows_of(scan: Scan, identities: Iterable[Identity]) -> dict[Identity, int]:
    """The rows of those files that are in the scan."""
    wanted = {(device, inode & INODE_MASK): (device, inode) for device, inode in identities}
    inodes = np.array(sorted({inode for _, inode in wanted}), np.uint64)
    rows = np.flatnonzero(np.isin(scan.entries.inode, inodes) & (scan.entries.kind == Kind.FILE)).tolist()
    found = {scan.identity(row): row for row in rows}
    return {wanted[key]: row for key, row in found.items() if key in wanted}


def _of(scan: Scan, opened: open_files.Look) -> Iterator[tuple[OpenFile, int]]:
    """Those of the files that are in the scan, with their rows."""
    rows = rows_of(scan, (identity for file in opened.files for identity in file.identities))
    for file in opened.files:
        row = next((rows[identity] for identity in file.identities if identity in rows), None)
        if row is not None:
            yield file, row


def _writer(scan: Scan, pid: int, row: int) -> Writer:
    path = os.fsdecode(scan.entries.path(row))
    if pid == open_files.KERNEL:
        return Writer(pid, "the kernel", "a loop device", path, mapped=False)
    root, name = Path("/"), ""
    with suppress(OSError):  # it has ended meanwhile
        name = processes.read_text(root / "proc" / str(pid) / "comm").strip()
    command = " ".join(processes.arguments(root, pid)).strip()[:TEXT_MAX]
    return Writer(pid, name, command, path, mapped=False)
