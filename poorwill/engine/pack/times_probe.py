"""Whether a flush makes the times of a file tell of writes through a mapping: tried on a file that has no name."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from functools import partial

from poorwill.positioned_io import closing_fd

_OLD_NS = 1_000_000_000_000_000_000
_BLIND = "its times do not move when a mapped file is written"


def why_not(directory: int, elsewhere: Sequence[bytes], sync: Callable[[int], None]) -> str:
    """Why the times of the file system of the descriptor `directory` cannot be trusted, "" if they can.

    elsewhere: directories of the same file system in which a name may be made, and removed again. Leaves nothing, and
    changes no times of `directory`.
    """
    refused = ""
    for make in (partial(_unnamed, directory), *(partial(_unlinked, path) for path in elsewhere)):
        try:
            with closing_fd(make()) as fd:
                return "" if _times_move(fd, sync) else _BLIND
        except OSError as error:
            refused = refused or f"its times could not be tried with a file there: {error.strerror}"
    return refused


def _unnamed(directory: int) -> int:
    return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)


def _unlinked(directory: bytes) -> int:
    """Where the file system has no files without a name."""
    path = os.path.join(directory, b".poorwill-times-%d" % os.getpid())
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd


def _times_move(fd: int, sync: Callable[[int], None]) -> bool:
    """Whether a write to a page that was dirty, and was flushed since, moves them."""
    os.pwrite(fd, bytes(mmap.PAGESIZE), 0)  # the page has its place on the disk from here on
    with mmap.mmap(fd, mmap.PAGESIZE) as page:
        _write(page)
        sync(fd)
        os.utime(fd, ns=(_OLD_NS, _OLD_NS))
        before = os.fstat(fd)
        _write(page)
        after = os.fstat(fd)
    return (before.st_mtime_ns, before.st_ctime_ns) != (after.st_mtime_ns, after.st_ctime_ns)


def _write(page: mmap.mmap) -> None:
    """Through the mapping, by the kernel: a full disk is an error here, where a store of ours would be a SIGBUS."""
    reading, writing = os.pipe()
    with closing_fd(reading), closing_fd(writing), memoryview(page) as view, view[:1] as first:
        os.write(writing, b"x")
        os.readv(reading, [first])
