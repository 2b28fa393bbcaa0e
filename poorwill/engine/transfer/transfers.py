"""Sinks and sources made from what the control side grants: a path, or presigned URLs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from poorwill.engine.meter import Meter
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.questions import Pieces, Read, Upload
from poorwill.engine.transfer.buffers import POOL_BYTES, BufferPool
from poorwill.engine.transfer.fetch import PathSource, Source, UrlSource
from poorwill.engine.transfer.sink import PathSink, Sink, UrlSink

if TYPE_CHECKING:
    from poorwill.engine.transfer.http import Http

TRANSFERS = 32
URLS_AHEAD = 8


class Transfers:
    """One connection pool, one thread pool and one pool of piece buffers for all parts. Thread-safe."""

    def __init__(self, meter: Meter) -> None:
        self.threads = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")
        self._meter = meter
        self._pieces: BufferPool | None = None

    @cached_property
    def _http(self) -> Http:
        # urllib3 takes a tenth of a second, which local stores need not pay.
        from poorwill.engine.transfer.http import Http

        return Http(TRANSFERS)

    def close(self) -> None:
        """Let the threads end, each after what it is transferring. Idempotent."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    def sink(self, number: int, context: Context) -> Sink:
        """Where part `number` goes; asks for its upload, and for the URL of each piece shortly before its use."""
        upload = context.ask(Upload(number))
        if upload.path is not None:
            return PathSink(upload.path, self._meter)

        piece_bytes = upload.piece_bytes or 0
        if self._pieces is None or self._pieces.buffer_bytes < piece_bytes:
            self._pieces = BufferPool(piece_bytes, max(4, POOL_BYTES // piece_bytes))
        urls: dict[int, str] = {}

        def url_of(piece: int, fresh: bool) -> str:
            if fresh or piece not in urls:
                wanted = [piece] if fresh else list(range(piece, piece + URLS_AHEAD))
                urls.update(context.ask(Pieces(number, tuple(wanted))).urls)
            return urls.pop(piece)

        return UrlSink(
            url_of, what=f"part {number:02d}", buffers=self._pieces, threads=self.threads,
            http=self._http, meter=self._meter, context=context,
        )  # fmt: skip

    def source(self, key: str, context: Context) -> Source:
        """The object `key`, to read from."""
        given = context.ask(Read(key))
        if given.path is not None:
            return PathSource(given.path, key, self._meter)

        kept = [given]

        def url_of(fresh: bool) -> str:
            if fresh:
                kept[0] = context.ask(Read(key))
            return kept[0].url or ""

        return UrlSource(url_of, key, self._http, self._meter, context)
