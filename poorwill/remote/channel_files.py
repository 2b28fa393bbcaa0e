"""The file objects of a Channel, over functions that wait."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Any

BUFFER_BYTES = 64 << 10


def reading(fill: Callable[[memoryview], int]) -> IO[bytes]:
    """A buffered file to read. `fill` waits for bytes, puts them into a buffer and returns how many, 0 at the end."""
    return io.BufferedReader(_Reading(fill), BUFFER_BYTES)


def writing(take: Callable[[memoryview], int], finish: Callable[[], None]) -> IO[bytes]:
    """A buffered file to write. `take` waits for room and returns how much it took; `finish` is called at its close."""
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
