"""A bounded pool of equal buffers: what bounds the engine's memory however large the workspace is."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable

from poorwill.errors import DeadlineExceeded

POOL_BYTES = 256 << 20
WAIT_S = 600.0


class BufferPool:
    """Buffers of `buffer_bytes`, at most `count` at a time; made when first needed, then reused. Thread-safe."""

    def __init__(
        self, buffer_bytes: int, count: int, prepare: Callable[[memoryview], memoryview] = lambda buffer: buffer
    ) -> None:
        """prepare: what is done to each buffer when it is made, such as pinning it for a GPU."""
        self.buffer_bytes, self._prepare = buffer_bytes, prepare
        self._free: list[memoryview] = []
        self._left = count
        self._changed = threading.Condition()

    def acquire(self, timeout_s: float = WAIT_S) -> memoryview:
        """A buffer with undefined content. DeadlineExceeded if none is given back in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free or self._left, timeout_s):
                raise DeadlineExceeded(f"no transfer made room for another in {timeout_s:.0f} s")
            if self._free:
                return self._free.pop()
            self._left -= 1
        return self._prepare(new_buffer(self.buffer_bytes))

    def release(self, buffer: memoryview) -> None:
        """Give a buffer back; one of another size is let go."""
        if len(buffer) != self.buffer_bytes:
            return
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()


def new_buffer(size: int) -> memoryview:
    """Zeroed memory straight from the kernel: costs nothing until it is touched."""
    return memoryview(mmap.mmap(-1, size))
