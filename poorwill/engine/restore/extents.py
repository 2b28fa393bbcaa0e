"""Ranges of open files: where data is and where holes are, comparing them, copying them."""

from __future__ import annotations

import errno
import os

from poorwill.engine.protocol.context import Context
from poorwill.positioned_io import write_at

PIECE_BYTES = 1 << 20
COPY_BYTES = 64 << 20
_NOWHERE = 1 << 63
_COPIED_BY_HAND = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def same(fd: int, offset: int, data: memoryview) -> bool:
    """Whether the file holds `data` at `offset`. OSError."""
    # Piece by piece: bounded memory, and the first difference ends it.
    for at in range(0, len(data), PIECE_BYTES):
        piece = data[at : at + PIECE_BYTES]
        if os.pread(fd, len(piece), offset + at) != bytes(piece):
            return False
    return True


def data_from(fd: int, offset: int) -> int:
    """Where the first data at or after `offset` begins, beyond every file if there is none. A file system that
    cannot tell has data everywhere."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        return _NOWHERE if error.errno == errno.ENXIO else offset


def hole_in(fd: int, begin: int, end: int) -> bool:
    """Whether any of the range, which is inside the file, is a hole."""
    try:
        return os.lseek(fd, begin, os.SEEK_HOLE) < end
    except OSError:
        return False


def empty(fd: int, begin: int, end: int) -> bool:
    """Whether the range is zeros, and a hole from its first whole block on. OSError."""
    if begin >= end:
        return True
    block = os.fstat(fd).st_blksize
    edge = min(-(-begin // block) * block, end)
    return not os.pread(fd, edge - begin, begin).strip(b"\0") and (edge >= end or data_from(fd, edge) >= end)


def copy(source: int, target: int, begin: int, end: int, context: Context | None = None) -> None:
    """The bytes of one file to the same place of another, as far as the first has any. OSError; Cancelled."""
    while begin < end:
        if context is not None:
            context.check()
        try:
            done = os.copy_file_range(source, target, min(end - begin, COPY_BYTES), begin, begin)
        except OSError as error:
            if error.errno not in _COPIED_BY_HAND:
                raise
            data = os.pread(source, min(end - begin, PIECE_BYTES), begin)
            write_at(target, begin, memoryview(data))
            done = len(data)
        if not done:
            return
        begin += done
