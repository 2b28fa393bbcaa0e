"""How many writes are on their way to Prefect's server at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE_MAX = 8.0
WIDEN = 1 / 16
"""By so much of a place, shared by all that there are, for each success: from one to two after two dozen."""


class WriteGate:
    """Additive increase, multiplicative decrease, as in RFC 5681: `narrow` when the server turned a write away.

    SQLite has one writer, and whoever has read before it wrote is turned away when another was faster: many writes at
    once then come to nothing, again and again, and the more of them are sent, the fewer get through. PostgreSQL takes
    all that the gate lets in. First come, first served.
    """

    def __init__(self, at_once_max: float = AT_ONCE_MAX) -> None:
        self._at_once_max = at_once_max
        self._limit, self._inside = at_once_max / 2, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """How many are let in at once now."""
        return int(self._limit)

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait for a place; it is given back at the end."""
        if self._inside >= self.limit or self._waiting:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():  # it had been given already
                    self._leave()
                raise
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    def narrow(self) -> None:
        """The server turned a write away."""
        self._limit = max(1.0, self._limit / 2)

    def widen(self) -> None:
        """A write got through."""
        self._limit = min(self._at_once_max, self._limit + WIDEN / self._limit)

    def _leave(self) -> None:
        self._inside -= 1
        while self._waiting and self._inside < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self._inside += 1
                place.set_result(None)
