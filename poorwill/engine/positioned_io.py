"""Whole positioned reads and writes: the kernel may do less than it is asked to."""

from __future__ import annotations

import os


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
