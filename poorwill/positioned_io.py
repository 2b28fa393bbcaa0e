"""Files by their descriptors. Reads and writes are whole ones: the kernel may do less than it is asked to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""For a file that may have become anything by now: a symlink is refused, a FIFO does not block."""


@contextmanager
def closing_fd(fd: int) -> Iterator[int]:
    """The descriptor, which is closed at the end of the `with`."""
    try:
        yield fd
    finally:
        os.close(fd)


def is_sparse(info: os.stat_result) -> bool:
    """Whether the file can have holes: it takes less room than it is long."""
    return info.st_blocks * 512 < info.st_size


def read_at(fd: int, offset: int, view: memoryview) -> int:
    """Fill `view` from `offset`; returns the bytes read, fewer only at the file's end. OSError."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            break
        done += got
    return done


def write_at(fd: int, offset: int, view: memoryview) -> None:
    """All of `view` at `offset`. OSError, ENOSPC for one."""
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
