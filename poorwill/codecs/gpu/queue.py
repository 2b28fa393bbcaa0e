"""Requests that wait for a GPU, taken in batches.

Codec threads hand in one chunk each and wait. A lane takes all that gathered while it was busy: so batches grow with
the load, and a lone chunk waits for no other.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from poorwill.errors import DeviceFailed, EngineLost

WAIT_S = 300.0
"""A GPU that does not answer for so long hangs, and may still write into the buffers it was given."""


@dataclass(slots=True, eq=False)
class Request:
    """One chunk for the GPU. `size` is the result: bytes written to `out`, or None if coding gains nothing."""

    kind: str
    source: memoryview
    out: memoryview
    form: Any
    size: int | None = None
    error: Exception | None = None
    alone: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def finish(self, error: Exception | None = None) -> None:
        """Wake the waiting thread. Only the first call counts."""
        if not self._done.is_set():
            self.error = error
            self._done.set()

    def wait(self, timeout_s: float = WAIT_S) -> int | None:
        """The result. Raises what `finish` was given; EngineLost for a GPU that hangs and may still write to `out`."""
        if not self._done.wait(timeout_s):
            raise EngineLost(f"the GPU has not answered for {timeout_s:.0f} s: its process has to be replaced")
        if self.error is not None:
            raise self.error
        return self.size


class BatchQueue:
    """Requests of one GPU in the order of their arrival, at most one of each codec thread. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed: Exception | None = None
        self.bytes = 0

    def put(self, request: Request) -> None:
        """Raises what the queue was closed with."""
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._waiting.append(request)
            self.bytes += len(request.source)
            self._changed.notify()

    def take(self, bytes_max: int) -> list[Request]:
        """The first request, and with it those of its kind that wait too, while source and `out` fit into `bytes_max`.
        Waits until there is one; [] when the queue is closed."""
        with self._changed:
            while not self._waiting and self._closed is None:
                self._changed.wait()
            batch = planned(self._waiting, bytes_max)
            for request in batch:
                self._waiting.remove(request)
                self.bytes -= len(request.source)
            return batch

    def close(self, error: Exception | None = None) -> None:
        """Refuse further requests, and end the waiting ones with `error`. Idempotent."""
        with self._changed:
            self._closed = self._closed or error or DeviceFailed("the GPU is not used any more")
            for request in self._waiting:
                request.finish(self._closed)
            self._waiting.clear()
            self.bytes = 0
            self._changed.notify_all()


def planned(waiting: deque[Request], bytes_max: int) -> list[Request]:
    """The next batch: the longest waiting request first, others of its kind behind it in order. Never empty if any
    waits: a chunk larger than `bytes_max` goes alone, as one goes that asks to be."""
    batch: list[Request] = []
    total = 0
    for request in waiting:
        size = max(len(request.source), len(request.out))
        if batch and (request.kind != batch[0].kind or request.alone or total + size > bytes_max):
            continue
        batch.append(request)
        total += size
        if request.alone or total >= bytes_max:
            break
    return batch
