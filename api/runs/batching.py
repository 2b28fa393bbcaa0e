"""Reads of many callers made few: what is asked for at about the same time is read at once, and kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
ENTRIES_MAX = 2048
BATCH_MAX = 50
BATCHES_MAX = 2
APART_S = 0.04


class BatchReader(Generic[K, V]):
    """`get(key)` answers what `read` gives for it, None where it gives nothing.

    At most `batches_max` reads of at most `batch_max` keys are on their way, and one begins `apart_s` after the other
    or later: however many callers there are, what lies behind has no more to do than that, and one caller alone does
    not wait. An answer is good for `keep_s(answer)` seconds, and the `entries_max` last asked for are kept.
    """

    def __init__(
        self,
        read: Callable[[list[K]], Awaitable[Mapping[K, V]]],
        keep_s: Callable[[V | None], float],
        *,
        batch_max: int = BATCH_MAX,
        batches_max: int = BATCHES_MAX,
        apart_s: float = APART_S,
        entries_max: int = ENTRIES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._keep_s, self._clock = read, keep_s, clock
        self._batch_max, self._apart_s, self._entries_max = batch_max, apart_s, entries_max
        self._slots = asyncio.Semaphore(batches_max)
        self._kept: OrderedDict[K, tuple[float, V | None]] = OrderedDict()
        self._asked: dict[K, asyncio.Future[V | None]] = {}  # waiting or on their way
        self._waiting: list[K] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering, self._next_s = False, 0.0

    async def get(self, key: K) -> V | None:
        """Raises what `read` raised. Cancelling one caller does not hurt the others."""
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._clock():
            self._kept.move_to_end(key)
            return kept[1]
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
            self._waiting.append(key)
            self._gather()
        return await asyncio.shield(future)

    def forget(self, key: K) -> None:
        """It has changed: nothing that was read before is answered from now on."""
        self._kept.pop(key, None)
        if key in self._asked and key not in self._waiting:
            del self._asked[key]

    async def close(self) -> None:
        """End what is on its way."""
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
        now_s = self._clock()
        for key, future in futures.items():
            answer = found.get(key)
            if self._asked.get(key) is future:  # not forgotten meanwhile
                self._kept[key] = (now_s + self._keep_s(answer), answer)
                self._kept.move_to_end(key)
                del self._asked[key]
            if not future.done():
                future.set_result(answer)
        while len(self._kept) > self._entries_max:
            self._kept.popitem(last=False)

    def _settle(self, futures: dict[K, asyncio.Future[V | None]], error: BaseException) -> None:
        for key, future in futures.items():
            if self._asked.get(key) is future:
                del self._asked[key]
            if not future.done():
                if isinstance(error, Exception):
                    future.set_exception(error)
                    future.exception()  # somebody who no longer waits is no reason to complain
                else:
                    future.cancel()
