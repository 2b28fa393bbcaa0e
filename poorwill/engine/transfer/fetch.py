"""Reading parts back: ranges of a file, or ranged GETs that run ahead of the codec threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from poorwill.engine.meter import Meter
from poorwill.engine.pool import Bench, Job, WorkPool
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import BufferPool, new_buffer
from poorwill.errors import Corrupt, NotFound, StoreUnavailable
from poorwill.positioned_io import READ_FLAGS, read_at

if TYPE_CHECKING:
    from poorwill.engine.transfer.http import Http

Run = tuple[int, int, list[int]]
"""Bytes of a part: where they begin, how many they are, and the chunks in them."""


class Source(Protocol):
    """One object to read from."""

    remote: bool

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` from byte `start`. NotFound, Corrupt (it ends earlier), or transient errors. Thread-safe."""

    def close(self) -> None: ...


class PathSource:
    """An object of a local-directory store."""

    remote = False

    def __init__(self, path: str, what: str, meter: Meter) -> None:
        self._what, self._meter = what, meter
        try:
            self._fd = os.open(path, READ_FLAGS)
        except FileNotFoundError:
            raise NotFound(f"{what}: the store says it does not exist") from None
        except OSError as error:
            raise StoreUnavailable(f"{what}: {error.strerror}") from None

    def read(self, start: int, into: memoryview) -> None:
        try:
            got = read_at(self._fd, start, into)
        except OSError as error:
            raise StoreUnavailable(f"{self._what}: {error.strerror}") from None
        if got < len(into):
            raise Corrupt(f"{self._what}: ends after {start + got} bytes, expected {start + len(into)}")
        self._meter.add(fetched_bytes=got)

    def close(self) -> None:
        os.close(self._fd)


class UrlSource:
    """An object behind a presigned URL; url_of(fresh) gives it, anew when the last one was refused."""

    remote = True

    def __init__(self, url_of: Callable[[bool], str], what: str, http: Http, meter: Meter, context: Context) -> None:
        self._url_of, self._what, self._http, self._meter, self._context = url_of, what, http, meter, context

    def read(self, start: int, into: memoryview) -> None:
        self._http.get(self._url_of, start, into, self._what, self._context)
        self._meter.add(fetched_bytes=len(into))

    def close(self) -> None:
        pass


class Reader:
    """Runs of bytes of one part, handed to the codec pool as soon as they are here."""

    def __init__(self, pool: WorkPool, buffers: BufferPool, threads: ThreadPoolExecutor) -> None:
        self.pool, self._buffers, self._threads = pool, buffers, threads

    def run(
        self,
        rank: int,
        source: Source,
        runs: list[Run],
        work: Callable[[Bench, memoryview, list[int]], None],
        context: Context,
    ) -> None:
        """Call work(bench, bytes, chunks) for every run, on the codec threads, in any order, and wait for all. Raises
        what the first failure raised."""

        def near(bench: Bench, run: Run) -> None:
            start, length, chunks = run
            size = max(self._buffers.buffer_bytes, length)
            buffer = bench.tool(f"run-{size}", lambda: bench.toolset.pinned(memoryview(bytearray(size))))
            source.read(start, buffer[:length])
            work(bench, buffer[:length], chunks)

        def far(bench: Bench, fetched: tuple[memoryview, int, list[int]]) -> None:
            try:
                work(bench, fetched[0][: fetched[1]], fetched[2])
            finally:
                self._buffers.release(fetched[0])

        if not source.remote:
            return self.pool.run(Job(rank, near, context), runs)
        job = self.pool.open(Job(rank, far, context, lambda fetched: self._buffers.release(fetched[0])))
        try:
            self._fetch_ahead(job, source, runs)
        except BaseException as error:
            self.pool.fail(job, error)
        self.pool.finish(job)

    def _fetch_ahead(self, job: Job, source: Source, runs: list[Run]) -> None:
        def fetch(buffer: memoryview, run: Run) -> None:
            try:
                if job.error is not None:
                    raise job.error
                source.read(run[0], buffer[: run[1]])
            except BaseException as error:
                self._buffers.release(buffer)
                self.pool.fail(job, error)
            else:
                self.pool.add(job, (buffer, run[1], run[2]))

        futures = []
        for run in runs:
            job.context.check()
            if job.error is not None:
                break
            # A chunk of another writer, longer than any that was expected, gets memory of its own.
            fits = run[1] <= self._buffers.buffer_bytes
            buffer = self._buffers.acquire() if fits else new_buffer(run[1])
            futures.append(self._threads.submit(fetch, buffer, run))
        for future in futures:
            future.result()
