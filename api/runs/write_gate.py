"""A limit on the writes to Prefect's server that are under way at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE_MAX = 8.0
WIDEN = 1 / 16
"""Each success adds this share of a place, divided by the present limit: from one place to two after two dozen."""


class WriteGate:
    """Additive increase, multiplicative decrease, as in RFC 5681: `narrow` when the server refused a write.

    SQLite has one writer, and refuses a transaction that read before another one wrote: of many writes at once most
    are refused, again and again, and the more are sent, the fewer succeed. PostgreSQL takes all that the gate lets in.
    First come, first served.
    """

    def __init__(self, at_once_max: float = AT_ONCE_MAX) -> None:
        self._at_once_max = at_once_max
        self._limit, self._inside = at_once_max / 2, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """The present limit."""
        return int(self._limit)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a place, and give it back at the end."""
        if self._inside >= self.limit or self._waiting:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # the place was given already
                    self._leave()
                raise
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    def narrow(self) -> None:
        """The server refused a write."""
        self._limit = max(1.0, self._limit / 2)

    def widen(self) -> None:
        """A write succeeded."""
        self._limit = min(self._at_once_max, self._limit + WIDEN / self._limit)

    def _leave(self) -> None:
        self._inside -= 1
        while self._waiting and self._inside < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self._inside += 1
                place.set_result(None)
