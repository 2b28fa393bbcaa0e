"""Threads for calls that block (blocks of Prefect, the store, providers): few at once, each awaited for a bounded
time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import httpx

from api.http.limits import within
from api.http.problems import unavailable

T = TypeVar("T")


class Threads:
    """A call that took too long goes on in its thread until its own timeouts end it; calls that wait for a thread
    meanwhile end in time, too, so that nothing piles up."""

    def __init__(self, at_once: int = 8, timeout_s: float = 20.0) -> None:
        self._pool, self._timeout_s = ThreadPoolExecutor(at_once, "blocking"), timeout_s

    async def run(self, call: Callable[[], T], what: str) -> T:
        """What `call` returns or raises. Problem `unavailable`, which names `what`, if it takes too long."""
        inside = contextvars.copy_context()
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, inside.run, call)
            return await within(self._timeout_s, running)
        except TimeoutError:
            raise unavailable(f"{what} does not answer") from None
        except httpx.HTTPError as error:
            raise unavailable(f"{what} cannot be reached ({type(error).__name__})") from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
