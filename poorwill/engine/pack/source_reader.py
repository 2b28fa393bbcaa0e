"""Reading what a chunk is made of from the workspace's files."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from poorwill.engine.pack.scan import Scan, path_below
from poorwill.engine.protocol.answers import LeftOut
from poorwill.positioned_io import READ_FLAGS, read_at
from poorwill.snapshot.plan import Plan

_NO_FILE_ANY_MORE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EAGAIN)
"""It vanished, or a directory, symlink, socket or FIFO has taken its name, or a parent's: the next scan will see."""


@dataclass(slots=True)
class Torn:
    """An entry whose bytes were not all there; `unreadable` says why if the file itself refused."""

    row: int
    unreadable: LeftOut | None = None


class SourceReader:
    """Fills a buffer with a planned chunk. Belongs to one thread; keeps the last large file open."""

    def __init__(self) -> None:
        self._row = -1
        self._scan: Scan | None = None
        self._fd = -1

    def read(self, scan: Scan, plan: Plan, chunk: int, into: memoryview) -> tuple[int, list[Torn]]:
        """Read chunk `chunk`; returns its raw bytes, always as many as planned, and the entries that were torn: a file
        that got shorter, vanished or refused reads as zeros, and is packed again or reported."""
        first, stop = int(plan.first[chunk]), int(plan.first[chunk + 1])
        at, torn = 0, list[Torn]()
        rows = plan.row[first:stop].tolist()
        offsets = plan.file_offset[first:stop].tolist()
        lengths = plan.length[first:stop].tolist()
        for row, offset, length in zip(rows, offsets, lengths, strict=True):
            view, refused = into[at : at + length], None
            at += length
            try:
                fd = self._open(scan, row, keep=offset > 0)
                try:
                    got = os.preadv(fd, [view], offset)
                    if 0 < got < length:
                        got += read_at(fd, offset + got, view[got:])
                finally:
                    if fd != self._fd:
                        os.close(fd)
            except OSError as error:
                got = 0
                if error.errno not in _NO_FILE_ANY_MORE:
                    refused = LeftOut(path_below(scan.root, scan.path(row)), str(error.strerror))
            if got < length:
                torn.append(Torn(row, refused))
                view[got:] = bytes(length - got)
        return at, torn

    def _open(self, scan: Scan, row: int, keep: bool) -> int:
        if not keep:  # a small file, or the beginning of a large one, which another thread may go on with
            return os.open(scan.path(row), READ_FLAGS)
        if row != self._row or scan is not self._scan:
            self.close()
            self._fd = os.open(scan.path(row), READ_FLAGS)
            self._row, self._scan = row, scan
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._row = -1
