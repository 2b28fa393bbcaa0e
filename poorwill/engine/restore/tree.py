"""Creating a tree from a manifest, by names below directory descriptors: nothing is ever written through a symlink."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from poorwill.engine.pool import Bench
from poorwill.engine.protocol.answers import LeftOut
from poorwill.errors import WorkspaceError
from poorwill.positioned_io import closing_fd, write_at
from poorwill.snapshot import xattrs
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Kind, Manifest

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SERIALS = itertools.count()
_SET_ID_BITS = stat.S_ISUID | stat.S_ISGID
_PRIVILEGED_XATTRS = (b"security.", b"trusted.")


class Tree:
    """The files of `manifest` below `root`; `rows` says which entries are wanted.

    Entries that stand where a wanted one belongs are replaced, others are left alone. Set-id bits and
    security xattrs are dropped unless `privileged`; owners are kept when running as root. Thread-safe
    for different entries, and for different ranges of one. Modes come out as they are in the manifest in a process
    whose umask is 0, as the engine's.
    """

    def __init__(
        self,
        root: bytes,
        manifest: Manifest,
        rows: Array,
        privileged: bool,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """check: called before each change, and may raise."""
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.entries = manifest.entries
        self.privileged = privileged
        self._check = check
        self.wanted = rows
        self.left_out: list[LeftOut] = []
        self._slots: list[list[int]] = []
        self._serial = next(_SERIALS)
        self.existed = np.zeros(len(self.entries), bool)
        """The directories that `make_directories` found there already."""
        self.inode = np.zeros(len(self.entries), np.uint64)
        self.ctime_ns = np.zeros(len(self.entries), np.int64)
        self._xattrs = manifest.xattr_sets.attributes
        self._targets = manifest.targets.target
        self.owner = (os.geteuid(), os.getegid())
        self.mode = self.entries.mode & (0o7777 if privileged else 0o7777 & ~_SET_ID_BITS)
        first = manifest.first_segments()
        last = np.maximum(first[1:] - 1, 0)
        segments = manifest.segments
        ends = segments.file_offset + segments.length if len(segments) else np.zeros(1, np.uint64)
        data_end = np.where(self.entries.segments > 0, ends[last], np.uint64(0))
        # One write of all bytes, then only a time to set: true for nearly all small files.
        entries = self.entries
        self._plain: Array = (entries.segments == 1) & (data_end == entries.size) & (entries.xattrs == 0)
        self._plain &= (self.mode & 0o7000) == 0
        if self.owner[0] == 0:
            self._plain &= (entries.uid == self.owner[0]) & (entries.gid == self.owner[1])

    def close(self) -> None:
        """Close every descriptor. Idempotent."""
        for slot in self._slots:
            if slot[1] >= 0:
                os.close(slot[1])
            slot[:] = [-1, -1]
        if self.root_fd >= 0:
            os.close(self.root_fd)
        self.root_fd = -1

    def _kept_open(self, bench: Bench, name: str, row: int, open_it: Callable[[int], int]) -> int:
        """What open_it(row) opened, kept until the thread asks for another row under this name. All that changes the
        workspace comes by here."""
        self._check()

        def make() -> list[int]:
            self._slots.append([-1, -1])  # so that close() reaches all of them
            return self._slots[-1]

        kept = bench.tool(f"{name}-{self._serial}", make)
        if kept[0] != row:
            if kept[1] >= 0:
                os.close(kept[1])
                kept[:] = [-1, -1]
            kept[:] = [row, open_it(row)]
        return kept[1]

    def directory(self, bench: Bench, row: int) -> int:
        """A descriptor of directory `row`, kept until the thread asks for another one."""
        return self._kept_open(bench, "directory", row, self._open_directory)

    def _open_directory(self, row: int) -> int:
        names = self.entries.path(row)
        fd = os.dup(self.root_fd)
        for name in names.split(b"/") if names else []:
            with closing_fd(fd), self.failures(row):
                fd = os.open(name, _DIRECTORY, dir_fd=fd)
        return fd

    def failed(self, row: int, error: OSError) -> WorkspaceError:
        path = os.fsdecode(self.entries.path(row))
        return WorkspaceError(f"{path}: {error.strerror}: it cannot be restored", path=path, errno=error.errno)

    @contextmanager
    def failures(self, row: int) -> Iterator[None]:
        """Raise WorkspaceError, which names the entry, in place of OSError."""
        try:
            yield
        except OSError as error:
            raise self.failed(row, error) from None

    def make_directories(self, bench: Bench) -> None:
        """All wanted directories, writable for the owner until `settle_directories`."""
        entries = self.entries
        self.existed[0] = True
        for row in np.flatnonzero(self.wanted & (entries.kind == Kind.DIRECTORY))[1:].tolist():
            above = self.directory(bench, int(entries.parent[row]))
            name = entries.name[row]
            try:
                os.mkdir(name, 0o700, dir_fd=above)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=above)
                    os.mkdir(name, 0o700, dir_fd=above)
                else:
                    os.chmod(name, 0o700, dir_fd=above)
                    self.existed[row] = True
            except OSError as error:
                raise self.failed(row, error) from None

    def clear(self, bench: Bench, row: int) -> None:
        """Remove what stands where a file, link or FIFO belongs; a directory there is an error."""
        try:
            os.unlink(self.entries.name[row], dir_fd=self.directory(bench, int(self.entries.parent[row])))
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.EPERM):
                error = OSError(errno.EISDIR, "a directory is in the way")
            raise self.failed(row, error) from None

    def _create(self, bench: Bench, row: int, mode: int) -> int:
        above = self.directory(bench, int(self.entries.parent[row]))
        try:
            return os.open(self.entries.name[row], _NEW, mode, dir_fd=above)
        except FileExistsError:
            self.clear(bench, row)
            return os.open(self.entries.name[row], _NEW, mode, dir_fd=above)

    def write_whole(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> int:
        """Create a file of one segment: content, then everything else about it. Returns the bytes written."""
        plain = bool(self._plain[row])
        try:
            fd = self._create(bench, row, int(self.mode[row]) & 0o777 if plain else 0o600)
            try:
                if plain and not file_offset and os.write(fd, data) == len(data):
                    mtime_ns = int(self.entries.mtime_ns[row])
                    os.utime(fd, ns=(mtime_ns, mtime_ns))
                    info = os.fstat(fd)
                    self.inode[row], self.ctime_ns[row] = info.st_ino, info.st_ctime_ns
                else:
                    write_at(fd, file_offset, data)
                    os.truncate(fd, int(self.entries.size[row]))
                    self._settle(fd, row)
            finally:
                os.close(fd)
        except OSError as error:
            raise self.failed(row, error) from None
        return len(data)

    def make_large(self, bench: Bench, row: int) -> None:
        """Create a file that several chunks will write into, at its full size."""
        with self.failures(row), closing_fd(self._create(bench, row, 0o600)) as fd:
            os.truncate(fd, int(self.entries.size[row]))

    def write_range(self, bench: Bench, row: int, data: memoryview, file_offset: int) -> int:
        """Write into a file made by `make_large`. Returns the bytes written."""
        with self.failures(row):
            fd = self._kept_open(bench, "large", row, lambda row: self._open(bench, row, os.O_WRONLY))
            write_at(fd, file_offset, data)
        return len(data)

    def _open(self, bench: Bench, row: int, flags: int) -> int:
        above = self.directory(bench, int(self.entries.parent[row]))
        return os.open(self.entries.name[row], flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=above)

    def settle_files(self, bench: Bench) -> None:
        """Files of several segments get their attributes; files without any are created."""
        entries = self.entries
        files = self.wanted & (entries.kind == Kind.FILE)
        for row in np.flatnonzero(files & (entries.segments == 0)).tolist():
            self.make_large(bench, row)
        for row in np.flatnonzero(files & (entries.segments != 1)).tolist():
            self.settle_file(bench, row)

    def settle_file(self, bench: Bench, row: int) -> None:
        """Everything but the content of one file, which exists."""
        with self.failures(row), closing_fd(self._open(bench, row, os.O_RDONLY)) as fd:
            self._settle(fd, row)

    def _settle(self, fd: int, row: int) -> None:
        if self.owner[0] == 0:
            os.fchown(fd, int(self.entries.uid[row]), int(self.entries.gid[row]))
        # Before the mode: an owner who is not root cannot give attributes to a file that is read-only.
        self._set_xattrs(row, fd)
        os.fchmod(fd, int(self.mode[row]))
        mtime_ns = int(self.entries.mtime_ns[row])
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        info = os.fstat(fd)
        self.inode[row], self.ctime_ns[row] = info.st_ino, info.st_ctime_ns

    def make_links(self, bench: Bench) -> None:
        """Hardlinks, symlinks and FIFOs: only now, when all files are there."""
        entries = self.entries
        makers = {Kind.HARDLINK: self._hardlink, Kind.SYMLINK: self._symlink, Kind.FIFO: self._fifo}
        for kind, make in makers.items():
            for row in np.flatnonzero(self.wanted & (entries.kind == kind)).tolist():
                if self.stands(bench, row, kind):
                    continue
                self.clear(bench, row)
                with self.failures(row):
                    make(row, self.directory(bench, int(entries.parent[row])), entries.name[row])

    def stands(self, bench: Bench, row: int, kind: Kind) -> bool:
        """Whether this link or FIFO is there already, just as it is wanted."""
        return False

    def _hardlink(self, row: int, above: int, name: bytes) -> None:
        file = int(self.entries.link[row])
        with closing_fd(self._open_directory(int(self.entries.parent[file]))) as source:
            os.link(self.entries.name[file], name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
        info = os.stat(name, dir_fd=above, follow_symlinks=False)
        for linked in (row, file):
            self.inode[linked], self.ctime_ns[linked] = info.st_ino, info.st_ctime_ns
        # Other links of the file changed their ctime with this one; they are read again if that matters.

    def _symlink(self, row: int, above: int, name: bytes) -> None:
        os.symlink(self._targets[int(self.entries.link[row])], name, dir_fd=above)
        self._settle_name(row, above, name)

    def _fifo(self, row: int, above: int, name: bytes) -> None:
        os.mkfifo(name, int(self.mode[row]) & 0o777, dir_fd=above)
        self._settle_name(row, above, name)

    def _settle_name(self, row: int, above: int, name: bytes) -> None:
        if self.owner[0] == 0:
            os.chown(name, int(self.entries.uid[row]), int(self.entries.gid[row]), dir_fd=above, follow_symlinks=False)
        mtime_ns = int(self.entries.mtime_ns[row])
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=above, follow_symlinks=False)

    def settle_directories(self) -> None:
        """Owners, modes, xattrs and times of all directories, deepest first: setting them earlier would be undone."""
        for row in reversed(np.flatnonzero(self.wanted & (self.entries.kind == Kind.DIRECTORY)).tolist()):
            self._check()
            with closing_fd(self._open_directory(row)) as fd, self.failures(row):
                self._settle(fd, row)

    def settle_root_times(self) -> None:
        """The root's times again, which a change of what stands in it has moved."""
        mtime_ns = int(self.entries.mtime_ns[0])
        os.utime(self.root_fd, ns=(mtime_ns, mtime_ns))
        info = os.fstat(self.root_fd)
        self.inode[0], self.ctime_ns[0] = info.st_ino, info.st_ctime_ns

    def _set_xattrs(self, row: int, fd: int) -> None:
        number = int(self.entries.xattrs[row])
        for name, value in (xattrs.decoded(self._xattrs[number - 1]) if number else {}).items():
            reason: str | None = None
            if name.startswith(_PRIVILEGED_XATTRS) and not self.privileged:
                reason = "needs --privileged"
            else:
                try:
                    os.setxattr(fd, name, value)
                except OSError as error:
                    reason = error.strerror
            if reason:
                self.left_out.append(LeftOut(self.entries.path(row), f"xattr {os.fsdecode(name)}: {reason}"))

    def note_set_id(self) -> None:
        """List the entries whose set-id bits were dropped."""
        lost = self.wanted & (self.entries.mode != self.mode)
        for row in np.flatnonzero(lost).tolist():
            self.left_out.append(LeftOut(self.entries.path(row), "set-id bits: needs --privileged"))

    def look_again(self, bench: Bench) -> None:
        """Fill in what earlier, interrupted runs restored: inode and ctime of files not written by this one."""
        files = self.wanted & (self.entries.kind == Kind.FILE) & (self.inode == 0)
        for row in np.flatnonzero(files).tolist():
            above = self.directory(bench, int(self.entries.parent[row]))
            with self.failures(row):
                info = os.stat(self.entries.name[row], dir_fd=above, follow_symlinks=False)
            self.inode[row], self.ctime_ns[row] = info.st_ino, info.st_ctime_ns
