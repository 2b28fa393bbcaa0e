"""Reading parts back: ranges of a file, or ranged GETs that run ahead of the codec threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from poorwill.engine.meter import Meter
from poorwill.engine.pool import Bench, Job, WorkPool
from poorwill.engine.positioned_io import read_at
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import BufferPool, new_buffer
from poorwill.errors import Corrupt, NotFound, StoreUnavailable


class Source(Protocol):
    """One object to read from."""

    remote: bool

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` from byte `start`. NotFound, Corrupt (it ends earlier), or transient errors. Thread-safe."""
        ...

    def close(self) -> None: ...


class PathSource:
    """An object of a local-directory store."""

    remote = False

    def __init__(self, path: str, what: str, meter: Meter) -> None:
        self._what, self._meter = what, meter
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
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


class Reader:
    """Runs of bytes of one part, handed to the codec pool as soon as they are here."""

    def __init__(self, pool: WorkPool, buffers: BufferPool, threads: ThreadPoolExecutor) -> None:
        self._pool, self._buffers, self._threads = pool, buffers, threads

    def here(self, rank: int, items: list[int], work: Callable[[Bench, int], None], context: Context) -> None:
        """Call work(bench, item) for what needs no fetching, as `run` does for what does."""
        job = self._pool.open(Job(rank, work, context))
        self._pool.add(job, *items)
        self._pool.finish(job)

    def run(
        self,
        rank: int,
        source: Source,
        runs: list[tuple[int, int, object]],
        work: Callable[[Bench, memoryview, object], None],
        context: Context,
    ) -> None:
        """Call work(bench, bytes, item) for every (start, length, item), on the codec threads, in any order.

        Runs are at most a buffer long. Returns when all are done; raises what the first failure raised.
        """

        def near(bench: Bench, run: tuple[int, int, object]) -> None:
            size = max(self._buffers.buffer_bytes, run[1])
            view: memoryview = bench.tool(f"run-{size}", lambda: bench.toolset.pinned(memoryview(bytearray(size))))[
                : run[1]
            ]
            source.read(run[0], view)
            work(bench, view, run[2])

        def far(bench: Bench, fetched: tuple[memoryview, int, object]) -> None:
            try:
                work(bench, fetched[0][: fetched[1]], fetched[2])
            finally:
                self._buffers.release(fetched[0])

        def drop(item: tuple[object, int, object]) -> None:
            if isinstance(item[0], memoryview):
                self._buffers.release(item[0])

        job = self._pool.open(Job(rank, far if source.remote else near, context, drop))
        try:
            if source.remote:
                self._fetch_ahead(job, source, runs)
            else:
                self._pool.add(job, *runs)
        except BaseException as error:
            self._pool.fail(job, error)
        self._pool.finish(job)

    def _fetch_ahead(self, job: Job, source: Source, runs: list[tuple[int, int, object]]) -> None:
        def fetch(buffer: memoryview, run: tuple[int, int, object]) -> None:
            try:
                if job.error is not None:
                    raise job.error
                source.read(run[0], buffer[: run[1]])
            except BaseException as error:
                self._buffers.release(buffer)
                self._pool.fail(job, error)
            else:
                self._pool.add(job, (buffer, run[1], run[2]))

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
