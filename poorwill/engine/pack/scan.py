"""Walking a workspace into an entry table."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from poorwill.engine.protocol.answers import LeftOut
from poorwill.errors import WorkspaceError
from poorwill.positioned_io import READ_FLAGS, closing_fd, is_sparse
from poorwill.snapshot import limits, tensors
from poorwill.snapshot.columns import Array, Blobs
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.tables import Entries, Kind, Targets, XattrSets

_KIND_OF = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMLINK, stat.S_IFIFO: Kind.FIFO}
OWN_STATE = "poorwill's own state on this machine: never kept"
_BLOCK_ROWS = 1 << 14
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_LISTED_TIMES = 3
INODE_MASK = (1 << 63) - 1  # some network file systems use the 64th bit


@dataclass(slots=True)
class Scan:
    """A workspace at one moment; `entries.segments` and `entries.xattrs` are still zero everywhere. directories: row ->
    absolute path. starts, extents: as plan.plan_chunks wants them.

    scanned_at_ns: whatever was written later moved the times of its file. For each entry: devices, its `st_dev`;
    at_rest, whether its times can be trusted although they are recent, or ahead of the clock; mapped, whether a process
    can change it without moving them; again, whether it is read again whatever its times say.
    """

    root: bytes
    scanned_at_ns: int
    entries: Entries
    devices: Array
    targets: Targets
    xattr_sets: XattrSets
    directories: dict[int, bytes]
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    unreadable: list[LeftOut] = field(default_factory=list)
    skipped: list[LeftOut] = field(default_factory=list)
    at_rest: Array = field(init=False)
    mapped: Array = field(init=False)
    again: Array = field(init=False)

    def __post_init__(self) -> None:
        self.at_rest, self.mapped, self.again = (np.zeros(len(self.entries), bool) for _ in range(3))

    def path(self, row: int) -> bytes:
        """Absolute path of an entry."""
        if row in self.directories:
            return self.directories[row]
        return self.directories[int(self.entries.parent[row])] + b"/" + self.entries.name[row]

    def identity(self, row: int) -> tuple[int, int]:
        """`st_dev` and `st_ino`."""
        return int(self.devices[row]), int(self.entries.inode[row])

    def starts(self, rows: Array) -> dict[int, int]:
        """Offsets of the tensor data of the large files among `rows`, where their format is known."""
        found: dict[int, int] = {}
        for row in rows[self.entries.size[rows] >= limits.BUNDLE_BYTES].tolist():
            start = tensors.data_start(_head(self.path(row)), int(self.entries.size[row]))
            if start:
                found[row] = start
        return found


def _head(path: bytes) -> bytes:
    try:
        with closing_fd(os.open(path, READ_FLAGS)) as fd:
            return os.pread(fd, tensors.HEAD_BYTES, 0)
    except OSError:
        return b""  # pack will meet the same error, and report it


def _directory(path: bytes) -> tuple[int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _children(path: bytes) -> list[os.DirEntry[bytes]]:
    """What is in a directory, by name; nothing if it is gone, or something else by now. OSError if it cannot be read.

    One that is there, and yet is not found, is looked at again: another one may have come in its place.
    """
    for _ in range(_LISTED_TIMES):
        try:
            with os.scandir(path) as found:
                return sorted(found, key=attrgetter("name"))
        except OSError as error:
            failed = error
            if error.errno not in _GONE:
                break
            if not os.path.isdir(path) or os.path.islink(path):
                return []
    raise failed


def path_below(root: bytes, path: bytes) -> bytes:
    """`path`, which lies below the workspace `root`, as a snapshot spells it."""
    return path[len(root.rstrip(b"/")) + 1 :]


class Walk:
    """Goes through `root` once; what matches `exclude`, the paths in `skip`, and `state_dir` are left alone."""

    def __init__(
        self, root: bytes, exclude: Globs, skip: Set[bytes], state_dir: bytes, on_entries: Callable[[int], None]
    ) -> None:
        """on_entries is called after each directory with the entries seen so far; it may raise to stop the walk."""
        self.root, self.exclude, self.skip = os.path.realpath(root), exclude, skip
        self.own, self.on_entries = _directory(state_dir), on_entries
        # Rows are gathered as Python values and turned into columns block by block: a tenth of the memory.
        self.rows, self.devices = array("q"), array("q")
        self.names: list[bytes] = []
        self.blocks: list[Entries] = []
        self.count = 0
        self.targets: list[bytes] = []
        self.links: dict[tuple[int, int], int] = {}
        self.directories: dict[int, bytes] = {}
        self.extents: dict[int, list[tuple[int, int]]] = {}
        self.unreadable: list[LeftOut] = []
        self.skipped: list[LeftOut] = []
        self.check_access = os.geteuid() != 0

    def run(self, scanned_at_ns: int) -> Scan:
        """scanned_at_ns: a time before the file systems were flushed. WorkspaceError if the root cannot be read, or is
        no directory."""
        try:
            info = os.stat(self.root)
            if not stat.S_ISDIR(info.st_mode):
                raise NotADirectoryError(20, "not a directory")
        except OSError as error:
            raise WorkspaceError(f"workspace {os.fsdecode(self.root)}: {error.strerror}: nothing was read") from None
        self._add(0, b"", info, Kind.DIRECTORY, self.root)
        self.directories[0] = self.root
        row = 0
        while row < self.count:  # breadth first: rows appended below are walked later
            path = self.directories.get(row)
            if path is not None:
                self._enter(row, path)
                self.on_entries(self.count)
            row += 1
        self._flush()
        entries = Entries.joined(self.blocks)
        self.blocks.clear()
        return Scan(
            self.root, scanned_at_ns, entries, np.array(self.devices, np.int64), Targets(Blobs.of(self.targets)),
            XattrSets.zeros(), self.directories, self.extents, self.unreadable, self.skipped,
        )  # fmt: skip

    def _enter(self, row: int, path: bytes) -> None:
        try:
            children = _children(path)
        except OSError as error:
            if row == 0:
                raise WorkspaceError(f"workspace {os.fsdecode(path)}: {error.strerror}: nothing was read") from None
            self.unreadable.append(LeftOut(self._below(path), str(error.strerror)))
            return
        prefix = self._below(path) + b"/" if row else b""
        exclude, skip = self.exclude, self.skip
        for child in children:
            below = prefix + child.name
            if (exclude and exclude.match(below)) or below in skip:
                continue
            try:
                info = child.stat(follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone since the directory was listed: not part of this moment
            except OSError as error:
                self.unreadable.append(LeftOut(below, str(error.strerror)))
                continue
            kind = _KIND_OF.get(stat.S_IFMT(info.st_mode))
            if kind is None:
                what = "socket" if stat.S_ISSOCK(info.st_mode) else "device"
                self.skipped.append(LeftOut(below, f"{what}: not kept in snapshots"))
                continue
            self._child(row, child, info, kind)

    def _child(self, parent: int, child: os.DirEntry[bytes], info: os.stat_result, kind: Kind) -> None:
        path = child.path
        if kind == Kind.DIRECTORY:
            if (info.st_dev, info.st_ino) == self.own:
                self.skipped.append(LeftOut(self._below(path), OWN_STATE))
                return
            self.directories[self.count] = path
        elif kind == Kind.FILE and self.check_access and not os.access(path, os.R_OK):
            if os.path.lexists(path):
                self.unreadable.append(LeftOut(self._below(path), "Permission denied"))
            return
        self._add(parent, child.name, info, kind, path)

    def _add(self, parent: int, name: bytes, info: os.stat_result, kind: Kind, path: bytes) -> None:
        link, size = 0, 0
        if kind == Kind.FILE:
            size = info.st_size
            if info.st_nlink > 1:
                first = self.links.setdefault((info.st_dev, info.st_ino), self.count)
                if first != self.count:
                    kind, link, size = Kind.HARDLINK, first, 0
            if size >= limits.FRAGMENT_BYTES_MAX and is_sparse(info):
                self.extents[self.count] = data_extents(path, size)
        elif kind == Kind.SYMLINK:
            try:
                self.targets.append(os.readlink(path))
            except OSError as error:
                if os.path.islink(path):  # else it is gone, or something else by now: the next scan will see
                    self.unreadable.append(LeftOut(self._below(path), str(error.strerror)))
                return
            link = len(self.targets) - 1
        # One row, in the order of Entries.SCHEMA; a method call per column would take as long as the system calls.
        self.rows.extend((
            parent, kind, info.st_mode & 0o7777, info.st_uid, info.st_gid, size, info.st_mtime_ns, info.st_ctime_ns,
            info.st_ino & INODE_MASK, link, 0, 0,
        ))  # fmt: skip
        self.devices.append(info.st_dev)
        self.names.append(name)
        self.count += 1
        if len(self.names) == _BLOCK_ROWS:
            self._flush()

    def _flush(self) -> None:
        fixed = [column for column in Entries.SCHEMA if column.width]
        rows = np.frombuffer(self.rows, np.int64).reshape(-1, len(fixed))
        columns: dict[str, Any] = {c.name: rows[:, i].astype(c.dtype) for i, c in enumerate(fixed)}
        self.blocks.append(Entries(name=Blobs.of(self.names), **columns))
        self.rows, self.names = array("q"), []

    def _below(self, path: bytes) -> bytes:
        return path_below(self.root, path)


def data_extents(path: bytes, size: int) -> list[tuple[int, int]]:
    """The (offset, length) that hold data, as the file system tells; all of it where it cannot."""
    found, at = [], 0
    try:
        with closing_fd(os.open(path, READ_FLAGS)) as fd:
            while at < size:
                try:
                    start = os.lseek(fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    break  # only a hole is left
                if start >= size:
                    break  # it has grown meanwhile
                at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
                if at <= start:
                    raise OSError(errno.EINVAL, "data that ends before it begins")
                found.append((start, at - start))
        return found
    except OSError:
        return [(0, size)]
