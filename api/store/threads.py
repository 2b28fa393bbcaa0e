"""Calls that block (blocks of Prefect, the store, providers), out of the event loop: few at once, each of them awaited
for a bounded time."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

from api.http.problems import unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
AT_ONCE = 8
TIMEOUT_S = 20.0


class Threads:
    """A call that was given up goes on in its thread until its own timeouts end it; those that wait for a thread by
    then are given up too, so that nothing piles up."""

    def __init__(self, at_once: int = AT_ONCE, timeout_s: float = TIMEOUT_S) -> None:
        self._pool, self._timeout_s = ThreadPoolExecutor(at_once, "blocking"), timeout_s

    async def run(self, call: Callable[[], T], what: str) -> T:
        """What `call` returns or raises. Problem `unavailable`, which names `what`, if that takes too long."""
        inside = contextvars.copy_context()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, inside.run, call)
        except (TimeoutError, httpx.HTTPError) as error:
            why = (
                "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached ({type(error).__name__})"
            )
            raise unavailable(f"{what} {why}") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
