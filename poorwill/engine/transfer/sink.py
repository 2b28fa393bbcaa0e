"""Where a part's bytes go: into the temporary file of a local store, or to a multipart upload by presigned URLs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Protocol

from poorwill.engine.meter import Meter
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import BufferPool
from poorwill.errors import Corrupt, StoreRefused, StoreUnavailable
from poorwill.positioned_io import write_at
from poorwill.store.base import Piece

if TYPE_CHECKING:
    from poorwill.engine.transfer.http import Http


class Sink(Protocol):
    """One part being written, front to back."""

    def append(self, data: memoryview) -> int:
        """Add bytes; returns their offset in the part. Thread-safe; `data` may be reused on return."""

    def finish(self, tail: Callable[[], bytes]) -> tuple[int, list[Piece]]:
        """Add `tail()` and wait until all is written. Returns the part's size and its pieces."""

    def abandon(self) -> None:
        """Stop: nothing more will be written."""


class PathSink:
    """A part as a file. Concurrent appends write at their own offsets at once."""

    def __init__(self, path: str, meter: Meter) -> None:
        self._path, self._meter = path, meter
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


class UrlSink:
    """A part as an S3 multipart upload: full pieces are sent by `threads` while the next ones fill."""

    def __init__(
        self,
        url_of: Callable[[int, bool], str],
        *,
        what: str,
        buffers: BufferPool,
        threads: ThreadPoolExecutor,
        http: Http,
        meter: Meter,
        context: Context,
    ) -> None:
        """url_of(number, fresh) gives the URL of a piece; `fresh` asks for one that was not given before."""
        self._url_of, self._what, self._buffers, self._threads = url_of, what, buffers, threads
        self._http, self._meter, self._context = http, meter, context
        self._lock = threading.Lock()
        self._end = 0
        self._piece: memoryview | None = None
        self._filled = 0
        self._sent: list[tuple[Future[Piece], memoryview]] = []

    def append(self, data: memoryview, last: bool = False) -> int:
        """last: nothing comes behind it, so that its piece is sent though it is not full."""
        with self._lock:
            start = self._end
            while data:
                if self._piece is None:
                    self._raise_early()
                    self._piece, self._filled = self._buffers.acquire(), 0
                room = min(len(data), len(self._piece) - self._filled)
                self._piece[self._filled : self._filled + room] = data[:room]
                self._filled += room
                self._end += room
                data = data[room:]
                if self._filled == len(self._piece) or (last and not data):
                    sending = self._threads.submit(self._put, len(self._sent) + 1, self._piece, self._filled)
                    self._sent.append((sending, self._piece))
                    self._piece = None
            return start

    def _put(self, number: int, buffer: memoryview, size: int) -> Piece:
        what = f"{self._what} piece {number}"
        try:
            tag = self._http.put(partial(self._url_of, number), buffer[:size], what, self._context)
        finally:
            self._buffers.release(buffer)
        self._meter.add(sent_bytes=size)
        return Piece(number, tag, size)

    def _raise_early(self) -> None:
        for future, _ in self._sent:
            if future.done():
                future.result()

    def finish(self, tail: Callable[[], bytes]) -> tuple[int, list[Piece]]:
        self.append(memoryview(tail()), last=True)
        futures = [future for future, _ in self._sent]
        while wait(futures, timeout=0.5, return_when=FIRST_EXCEPTION).not_done:
            self._context.check()
            self._raise_early()
        pieces = [future.result() for future in futures]
        if sum(piece.size for piece in pieces) != self._end:
            raise Corrupt(f"{self._what}: pieces of another total than the part's {self._end} bytes")
        return self._end, pieces

    def abandon(self) -> None:
        with self._lock:
            for future, buffer in self._sent:
                if future.cancel():
                    self._buffers.release(buffer)
            if self._piece is not None:
                self._buffers.release(self._piece)
                self._piece = None
