"""A part as an S3 multipart upload by presigned URLs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial

from poorwill.engine.meter import Meter
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import BufferPool
from poorwill.engine.transfer.http import Http
from poorwill.errors import Corrupt
from poorwill.store.base import Piece


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
