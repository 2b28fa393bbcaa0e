"""The file objects of a Channel, over functions that wait."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any

BUFFER_BYTES = 64 << 10


def reading(fill: Callable[[memoryview], int]) -> IO[bytes]:
    """A buffered file of what `fill` puts into a buffer: it waits for some bytes, and returns 0 at the end."""
    return io.BufferedReader(_Reading(fill), BUFFER_BYTES)


def writing(take: Callable[[memoryview], int], finish: Callable[[], None]) -> IO[bytes]:
    """A buffered file that gives to `take`, which waits for room and says how much it took; `finish` at its close."""
    return io.BufferedWriter(_Writing(take, finish), BUFFER_BYTES)


class _Reading(io.RawIOBase):
    def __init__(self, fill: Callable[[memoryview], int]) -> None:
        self._fill = fill

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._fill(memoryview(buffer).cast("B"))


class _Writing(io.RawIOBase):
    def __init__(self, take: Callable[[memoryview], int], finish: Callable[[], None]) -> None:
        self._take, self._finish = take, finish

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._take(memoryview(data).cast("B"))

    def close(self) -> None:
        if not self.closed:
            self._finish()
        super().close()
