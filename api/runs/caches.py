"""Answers that are read once for many callers, and kept for a moment."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from cachetools import TLRUCache

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[V]):
    """One answer: `read` gives it, again once it is older than `keep_s`. Callers at the same time share one read."""

    def __init__(self, read: Callable[[], Awaitable[V]], keep_s: float) -> None:
        self._read, self._keep_s = read, keep_s
        self._lock = asyncio.Lock()
        self._answer: V
        self._until_s = -math.inf

    async def get(self, *, fresh: bool = False) -> V:
        """`fresh`: read now. Raises what `read` raises."""
        async with self._lock:
            if fresh or time.monotonic() >= self._until_s:
                self._answer = await self._read()
                self._until_s = time.monotonic() + self._keep_s
            return self._answer


class BatchReader(Generic[K, V]):
    """Answers by key: `get` gives what `read` finds for the key, or None. Keys that are asked for at about the same
    time are read in one call.

    At most two reads of at most `batch_max` keys are under way, and they begin at least `apart_s` apart:
    that bounds the load on the server, however many callers there are, and one caller alone does not wait. An answer
    is kept for `keep_s(answer)` seconds, and of all answers the `entries_max` last asked for.
    """

    def __init__(
        self,
        read: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        keep_s: Callable[[V | None], float],
        *,
        batch_max: int = 50,
        apart_s: float = 0.04,
        entries_max: int = 2048,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._batch_max, self._apart_s = batch_max, apart_s
        self._slots = asyncio.Semaphore(2)
        self._kept: TLRUCache[K, V | None, float] = TLRUCache(
            entries_max, lambda key, answer, now_s: now_s + keep_s(answer), clock
        )
        self._asked: dict[K, asyncio.Future[V | None]] = {}  # waiting or being read
        self._waiting: list[K] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering, self._next_s = False, 0.0

    async def get(self, key: K) -> V | None:
        """Raises what `read` raised. Cancelling one caller does not hurt the others."""
        try:
            return self._kept[key]
        except KeyError:
            pass
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
            self._waiting.append(key)
            self._gather()
        return await asyncio.shield(future)

    def forget(self, key: K) -> None:
        """The key's value has changed: no later `get` answers what was read before."""
        self._kept.pop(key, None)
        if key in self._asked and key not in self._waiting:
            del self._asked[key]

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            task = asyncio.create_task(self._read_soon())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _read_soon(self) -> None:
        await asyncio.sleep(max(0.0, self._next_s - self._clock()))
        async with self._slots:
            self._next_s = self._clock() + self._apart_s
            keys, self._waiting = self._waiting[: self._batch_max], self._waiting[self._batch_max :]
            self._gathering = False
            if self._waiting:
                self._gather()
            futures = {key: self._asked[key] for key in keys}
            try:
                found = await self._read(keys)
            except BaseException as error:
                self._settle(futures, error)
                if not isinstance(error, Exception):
                    raise
            else:
                self._answer(futures, found)

    def _answer(self, futures: dict[K, asyncio.Future[V | None]], found: Mapping[K, V]) -> None:
        for key, future in futures.items():
            answer = found.get(key)
            if self._asked.get(key) is future:  # not forgotten meanwhile
                self._kept[key] = answer
                del self._asked[key]
            if not future.done():
                future.set_result(answer)

    def _settle(self, futures: dict[K, asyncio.Future[V | None]], error: BaseException) -> None:
        for key, future in futures.items():
            if self._asked.get(key) is future:
                del self._asked[key]
            if not future.done():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # mark it as seen, though its caller may have left
                else:
                    future.cancel()
