"""Where a part's bytes go: into the temporary file of a local store, or to a multipart upload by presigned URLs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Protocol

from poorwill.engine.meter import Meter
from poorwill.engine.positioned_io import write_at
from poorwill.errors import StoreRefused, StoreUnavailable
from poorwill.store.base import Piece


class Sink(Protocol):
    """One part being written, front to back."""

    def append(self, data: memoryview) -> int:
        """Add bytes; returns their offset in the part. Thread-safe; `data` may be reused on return."""
        ...

    def finish(self, tail: Callable[[], bytes]) -> tuple[int, list[Piece]]:
        """Add `tail()` and wait until all is written. Returns the part's size and its pieces."""
        ...

    def abandon(self) -> None:
        """Stop: nothing more will be written."""
        ...


class PathSink:
    """A part as a file. Concurrent appends write at their own offsets at once."""

    def __init__(self, path: str, meter: Meter) -> None:
        self._path = path
        self._meter = meter
        self._lock = threading.Lock()
        self._end = 0
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreRefused(f"{path}: {error.strerror}: the store's upload cannot be written") from None

    def append(self, data: memoryview) -> int:
        with self._lock:
            start = self._end
            self._end += len(data)
        try:
            write_at(self._fd, start, data)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror}") from None
        self._meter.add(sent_bytes=len(data))
        return start

    def finish(self, tail: Callable[[], bytes]) -> tuple[int, list[Piece]]:
        self.append(memoryview(tail()))
        os.close(self._fd)
        return self._end, [Piece(1, "", self._end)]

    def abandon(self) -> None:
        os.close(self._fd)
