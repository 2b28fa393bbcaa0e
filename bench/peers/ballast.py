"""Keeps the memory that the next command will need warm.

A virtual machine often gives free memory back to its host within seconds (free page reporting), and the
next use of each page then costs a fault in the host: 3 s per GB instead of 1 was seen, paid by whichever
command comes first. So between commands this process holds as much memory as a command may use, and lets
go of it just before one starts: all of them then begin with pages that are really there. On a machine
that keeps its memory this changes nothing.
"""

from __future__ import annotations

import mmap

from bench import machine

TOUCH_BYTES = 4096
MEMORY_SHARE_MAX = 0.8


class Ballast:
    """`hold()` takes `size` bytes of memory and touches every page; `release()` gives them back to the kernel."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._held: mmap.mmap | None = None

    def hold(self) -> None:
        """Takes less where less is free; nothing if memory is held already."""
        size = min(self.size, int(machine.memory_bytes("MemAvailable") * MEMORY_SHARE_MAX))
        if self._held is not None or size < mmap.PAGESIZE:
            return
        held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, TOUCH_BYTES):
            held[at] = 1
        self._held = held

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
