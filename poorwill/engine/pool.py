"""One pool of codec threads that serves all parts.

Parts are worked through in the order of their numbers: the machine's cores all work on the first unfinished
part, so that parts become whole one after another. A hibernation that is killed then has finished parts to
keep, where 32 parts growing alike would leave it 32 halves.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from poorwill.codecs.toolset import Toolset
from poorwill.engine.protocol.context import Context

T = TypeVar("T")
Work = Callable[["Bench", Any], None]


class Bench:
    """What one codec thread owns: scratch buffers and codecs, kept from chunk to chunk by name."""

    def __init__(self, toolset: Toolset | None = None) -> None:
        self.toolset = toolset or Toolset()
        self.tools: dict[str, Any] = {}

    def tool(self, name: str, make: Callable[[], T]) -> T:
        if name not in self.tools:
            self.tools[name] = make()
        tool: T = self.tools[name]
        return tool

    def close(self) -> None:
        """Close the tools that can be closed, and forget all."""
        for tool in self.tools.values():
            if hasattr(tool, "close"):
                tool.close()
        self.tools.clear()


class Job:
    """Items of one request, worked on by the pool until all are done or one fails."""

    def __init__(
        self, rank: int, work: Work, context: Context, drop: Callable[[Any], None] = lambda item: None
    ) -> None:
        """`drop` is called with each item that will not be worked on, because another one failed."""
        self.rank, self.work, self.context, self.drop = rank, work, context, drop
        self.items: deque[Any] = deque()
        self.running = 0
        self.error: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        self.error = self.error or error
        while self.items:
            self.drop(self.items.popleft())


class WorkPool:
    """`threads` daemon threads, twice as many once a GPU codes, started with the first job, which code with what
    `toolset` makes. Thread-safe."""

    def __init__(self, threads: int, toolset: Toolset | None = None) -> None:
        self.threads, self.toolset = threads, toolset or Toolset()
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._started, self._closed = 0, False

    def run(self, job: Job, items: Iterable[Any]) -> None:
        """Work on these items, and wait as `finish` does."""
        self.open(job)
        self.add(job, *items)
        self.finish(job)

    def open(self, job: Job) -> Job:
        with self._changed:
            self._jobs.append(job)
            self._jobs.sort(key=lambda j: j.rank)
            self._start(self.threads)
        return job

    def _start(self, to: int) -> None:
        for n in range(self._started, to):
            threading.Thread(target=self._run, name=f"codec-{n}", daemon=True).start()
        self._started = max(self._started, to)

    def add(self, job: Job, *items: Any) -> None:
        with self._changed:
            job.items.extend(items)
            if job.error is not None:
                job.stop(job.error)
            self._changed.notify_all()

    def fail(self, job: Job, error: BaseException) -> None:
        """End the job with `error`; what is running still finishes."""
        with self._changed:
            job.stop(error)
            self._changed.notify_all()

    def finish(self, job: Job) -> None:
        """Wait until every item is done; raise what the first failing item, or the context, raised."""
        try:
            with self._changed:
                while job.running or job.items:
                    self._changed.wait(0.5)
                    try:
                        job.context.check()
                    except Exception as error:
                        job.stop(error)
        finally:
            with self._changed:
                self._jobs.remove(job)
        if job.error is not None:
            raise job.error

    def _run(self) -> None:
        bench = Bench(self.toolset)
        while True:
            with self._changed:
                job = self._next()
                while job is None:
                    if self._closed:
                        bench.close()
                        return
                    self._changed.wait()
                    job = self._next()
                item = job.items.popleft()
                job.running += 1
            error: BaseException | None = None
            try:
                job.context.check()
                job.work(bench, item)
            except BaseException as caught:  # whatever it was, the request that waits must hear of it
                error = caught
            del item
            with self._changed:
                job.running -= 1
                # Threads wait while a GPU codes: with twice as many the cores read and hash meanwhile.
                if self.toolset.on_gpu and not self._closed:
                    self._start(2 * self.threads)
                if error is not None:
                    job.stop(error)
                if not job.items or error is not None:
                    self._changed.notify_all()

    def close(self) -> None:
        """Let the threads end, each after what it is working on. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> Job | None:
        return next((job for job in self._jobs if job.items), None)


def threads_of_this_machine() -> int:
    """Codec threads: one per core this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))
