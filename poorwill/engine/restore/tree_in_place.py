"""Creating a tree from a manifest where one stands already: what is equal is kept, only what differs is written.

A file of several chunks that differs is patched in place: ranges that are equal are never written, the others are
overwritten where they lie. Building a copy beside it and renaming that would show readers the old file or the new
one and never a mix, but needs its space a second time, on a disk that was rented to hold the workspace once, and
reads and writes every byte that was equal. What makes patching safe is the journal: it lies in the workspace from
before the first write until after the last, so the workspace, and with it any mix in it, counts as torn (no snapshot
is taken of it) until a restore has gone over every chunk; and a chunk enters the journal only when all its bytes are
in place. A process that has the file open sees it change: stop what works in the workspace first.

A file becomes a new inode instead, into which its ranges are copied, when it must not or cannot be patched: it has
other names (which keep their content and attributes), holds data where the manifest has a hole, runs as a program, or
refuses to be written. Files of one segment are kept as they are or made anew, never patched. Nothing is reached
through a symlink: files are opened by name below directory descriptors, with O_NOFOLLOW.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from poorwill.engine.pool import Bench
from poorwill.engine.protocol.context import Context
from poorwill.engine.restore import extents
from poorwill.engine.restore.survey import survey
from poorwill.engine.restore.tree import Tree
from poorwill.positioned_io import closing_fd, is_sparse, read_at, write_at
from poorwill.snapshot import xattrs
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Kind, Manifest

_SYSTEM_XATTRS = b"security."
_DANGEROUS_XATTR = b"security.capability"


class TreeInPlace(Tree):
    """A Tree that keeps what stands below its root already and is equal. Thread-safe as Tree is."""

    def __init__(
        self,
        root: bytes,
        manifest: Manifest,
        rows: Array,
        privileged: bool,
        *,
        on_renewal: Callable[[int], None],
        context: Context | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """on_renewal(row) is called before the file at `row` loses content that may count as restored."""
        super().__init__(root, manifest, rows, privileged, check)
        self._on_renewal, self._context = on_renewal, context
        self._first_segment, self._segments = manifest.first_segments(), manifest.segments
        self._holes = np.zeros(len(self.entries), bool)  # of large files, as they stand

    def look(self, bench: Bench, remembered: tuple[Array, Array] | None) -> None:
        """Survey what stands there: `found`. After `make_directories`, before anything else."""
        self.found = survey(self, bench, remembered, self._context)
        if remembered is not None:
            rows = np.flatnonzero(self.found.settled)
            self.inode[rows], self.ctime_ns[rows] = remembered[0][rows], remembered[1][rows]

    # Files of one segment

    def write_whole(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> int:
        """Create a file of one segment unless it is there and equal. Returns the bytes written."""
        found = self.found
        if found.unchanged[row]:
            return 0
        if found.regular[row] and not found.shared[row] and self._keep_whole(bench, row, data, file_offset):
            return 0
        return super().write_whole(bench, row, data, file_offset)

    def _keep_whole(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> bool:
        try:
            with closing_fd(self._open(bench, row, os.O_RDONLY)) as fd:
                if not self._equal(fd, row, data, file_offset):
                    return False
                self._settle_if_needed(fd, row)
                return True
        except OSError:
            return False  # it cannot be read, or is another user's: a new file can have all that is wanted

    def _equal(self, fd: int, row: int, data: memoryview, file_offset: int) -> bool:
        info, size = os.fstat(fd), int(self.entries.size[row])
        if not stat.S_ISREG(info.st_mode) or info.st_size != size or not extents.same(fd, file_offset, data):
            return False
        if len(data) == size and not is_sparse(info):
            return True
        whole = not extents.hole_in(fd, file_offset, file_offset + len(data))
        return whole and extents.empty(fd, 0, file_offset) and extents.empty(fd, file_offset + len(data), size)

    def _settle_if_needed(self, fd: int, row: int) -> None:
        info, entries = os.fstat(fd), self.entries
        as_wanted = info.st_mode & 0o7777 == self.mode[row] and info.st_mtime_ns == entries.mtime_ns[row]
        as_wanted &= self.owner[0] != 0 or (info.st_uid, info.st_gid) == (entries.uid[row], entries.gid[row])
        if not as_wanted or entries.xattrs[row] or _own_xattrs(fd):
            self._settle(fd, row)
        else:
            self.inode[row], self.ctime_ns[row] = info.st_ino, info.st_ctime_ns

    # Files of several segments

    def make_large(self, bench: Bench, row: int) -> None:
        """Make what stands there a file that chunks can be written into, with all that is equal in it."""
        if self.found.unchanged[row]:
            return
        if not self.found.regular[row] or not self.entries.segments[row]:
            if self.entries.segments[row] or not self._keep_empty(bench, row):
                super().make_large(bench, row)
            return
        with self.failures(row):
            try:
                old = self._open(bench, row, os.O_RDONLY)
            except OSError:
                self._renew(bench, row)
            else:
                with closing_fd(old):
                    if self.found.shared[row] or not self._patchable(bench, row, old):
                        self._renew(bench, row, old)
            above = self.directory(bench, int(self.entries.parent[row]))
            self._holes[row] = is_sparse(os.stat(self.entries.name[row], dir_fd=above, follow_symlinks=False))

    def _ours(self, info: os.stat_result) -> bool:
        return self.owner[0] in (0, info.st_uid)

    def _patchable(self, bench: Bench, row: int, old: int) -> bool:
        """Whether the file can be written; if so it has the wanted size then, and zeros in every hole."""
        info, size = os.fstat(old), int(self.entries.size[row])
        if not stat.S_ISREG(info.st_mode) or not self._ours(info):
            return False  # another user's could be written perhaps, but not given its mode and times
        try:
            if not info.st_mode & stat.S_IWUSR:
                os.fchmod(old, 0o600)
            fd = self._open(bench, row, os.O_RDWR)
        except OSError:
            return False  # ETXTBSY for a program that runs, EPERM for a file that is immutable
        with closing_fd(fd):
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (info.st_dev, info.st_ino):
                return False
            if now.st_size != size:
                os.truncate(fd, size)
            return all(extents.empty(fd, begin, end) for begin, end in self._gaps(row))

    def _ranges(self, row: int) -> list[tuple[int, int]]:
        """The (begin, end) that hold data, neighbours joined."""
        cut = slice(int(self._first_segment[row]), int(self._first_segment[row + 1]))
        begin = self._segments.file_offset[cut].astype(np.int64)
        end = begin + self._segments.length[cut]
        apart = begin[1:] != end[:-1]
        firsts, lasts = begin[np.append(True, apart)], end[np.append(apart, True)]
        return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

    def _gaps(self, row: int) -> list[tuple[int, int]]:
        edges = [0, *(edge for pair in self._ranges(row) for edge in pair), int(self.entries.size[row])]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

    def _renew(self, bench: Bench, row: int, old: int = -1) -> None:
        """A new inode under the same name, with what the old one holds where data is wanted."""
        self._on_renewal(row)
        super().make_large(bench, row)
        if old < 0:
            return
        # No room for two, or it cannot be read to its end: the rest is fetched.
        with closing_fd(self._open(bench, row, os.O_WRONLY)) as new, suppress(OSError):
            for begin, end in self._ranges(row):
                extents.copy(old, new, begin, end, self._context)

    def write_range(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> int:
        """Write into a file that `make_large` made ready, unless the range is equal. Returns the bytes written."""
        if self.found.unchanged[row]:
            return 0
        if not self.found.regular[row]:
            return super().write_range(bench, row, data, file_offset)
        with self.failures(row):
            fd = self._kept_open(bench, "large", row, lambda row: self._open(bench, row, os.O_RDWR))
            in_hole = self._holes[row] and extents.hole_in(fd, file_offset, file_offset + len(data))
            if not in_hole and extents.same(fd, file_offset, data):
                return 0
            write_at(fd, file_offset, data)
        return len(data)

    def keep_range(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> int:
        """As `write_range`, for `data` that was just read from there: only zeros that are a hole are written."""
        if self.found.unchanged[row] or not self._holes[row]:
            return 0
        return self.write_range(bench, row, data, file_offset)

    def read_range(self, bench: Bench, row: int, file_offset: int, into: memoryview) -> bool:
        """Fill `into` with what stands there; False if that much is not there, or all of it is a hole."""
        try:
            if self.entries.segments[row] == 1:
                with closing_fd(self._open(bench, row, os.O_RDONLY)) as fd:
                    return read_at(fd, file_offset, into) == len(into)
            fd = self._kept_open(bench, "source", row, lambda row: self._open(bench, row, os.O_RDONLY))
            # A file that an interrupted restore made is mostly one hole: to read and hash that takes long.
            if self._holes[row] and extents.data_from(fd, file_offset) >= file_offset + len(into):
                return False
            return read_at(fd, file_offset, into) == len(into)
        except OSError:
            return False

    # Files without segments, attributes, links

    def _keep_empty(self, bench: Bench, row: int) -> bool:
        if not self.found.regular[row] or self.found.shared[row]:
            return False
        try:
            with closing_fd(self._open(bench, row, os.O_RDONLY)) as fd:
                info, size = os.fstat(fd), int(self.entries.size[row])
                return self._ours(info) and info.st_size == size and (not size or extents.data_from(fd, 0) >= size)
        except OSError:
            return False

    def settle_file(self, bench: Bench, row: int) -> None:
        if not self.found.settled[row]:
            super().settle_file(bench, row)

    def settle_files(self, bench: Bench) -> None:
        super().settle_files(bench)
        unsettled = self.found.unchanged & ~self.found.settled & (self.entries.segments == 1)
        for row in np.flatnonzero(unsettled).tolist():
            self.settle_file(bench, row)

    def _set_xattrs(self, row: int, fd: int) -> None:
        """The wanted attributes, and no others but the system's own."""
        number = int(self.entries.xattrs[row])
        wanted = xattrs.decoded(self._xattrs[number - 1]) if number else {}
        for name in _own_xattrs(fd):
            if name not in wanted:
                os.removexattr(fd, name)
        super()._set_xattrs(row, fd)

    def stands(self, bench: Bench, row: int, kind: Kind) -> bool:
        """Whether this link or FIFO is there already, just as it is wanted."""
        entries, parent = self.entries, int(self.entries.parent[row])
        if not self.existed[parent]:
            return False
        above, name = self.directory(bench, parent), entries.name[row]
        try:
            info = os.stat(name, dir_fd=above, follow_symlinks=False)
            if kind == Kind.HARDLINK:
                return self._is_link_of(bench, int(entries.link[row]), row, info)
            as_wanted = info.st_mtime_ns == entries.mtime_ns[row] and info.st_nlink == 1
            as_wanted &= self.owner[0] != 0 or (info.st_uid, info.st_gid) == (entries.uid[row], entries.gid[row])
            if kind == Kind.SYMLINK:
                target = self._targets[int(entries.link[row])]
                return as_wanted and stat.S_ISLNK(info.st_mode) and os.readlink(name, dir_fd=above) == target
            return as_wanted and stat.S_ISFIFO(info.st_mode) and info.st_mode & 0o777 == self.mode[row] & 0o777
        except OSError:
            return False

    def _is_link_of(self, bench: Bench, file: int, row: int, info: os.stat_result) -> bool:
        above = self.directory(bench, int(self.entries.parent[file]))
        same = os.stat(self.entries.name[file], dir_fd=above, follow_symlinks=False)
        if (same.st_dev, same.st_ino) != (info.st_dev, info.st_ino):
            return False
        for linked in (row, file):
            self.inode[linked], self.ctime_ns[linked] = info.st_ino, info.st_ctime_ns
        return True


def _own_xattrs(fd: int) -> list[bytes]:
    """Names of attributes that somebody gave the file. Labels of the system's security modules are not among them."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(fd)]
    except OSError:
        return []  # a file system without any
    return [name for name in names if not name.startswith(_SYSTEM_XATTRS) or name == _DANGEROUS_XATTR]
