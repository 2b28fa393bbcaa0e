"""Limits: how often a caller may ask, how large a body may be, how long a call may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cachetools import LRUCache
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.problems import Problem

T = TypeVar("T")


async def within(seconds: float, call: Awaitable[T]) -> T:
    """What `call` returns. TimeoutError, after `call` was cancelled, if it takes longer."""
    async with asyncio.timeout(seconds):  # type: ignore[attr-defined]  # types are checked for Python 3.10
        return await call


class TokenBuckets:
    """For each name a bucket of `burst` requests that fills with `rate_per_s`.

    The `names_max` names that called last are remembered; a forgotten one begins with a full bucket.
    """

    def __init__(
        self, rate_per_s: float, burst: int, clock: Callable[[], float] = time.monotonic, names_max: int = 10_000
    ) -> None:
        self._rate_per_s, self._burst, self._clock = rate_per_s, burst, clock
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(names_max)  # requests left, and when that was

    def take(self, name: str) -> float:
        """Take one request; 0, or the seconds until there is one to take."""
        now_s = self._clock()
        left, then_s = self._buckets.get(name, (float(self._burst), now_s))
        left = min(float(self._burst), left + (now_s - then_s) * self._rate_per_s)
        granted = left >= 1
        self._buckets[name] = (left - 1 if granted else left, now_s)
        return 0.0 if granted else (1 - left) / self._rate_per_s


class BodyLimit:
    """ASGI: requests with a larger body get 413, also those that do not announce their length.

    A body that is announced too large is not read at all; one that turns out too large is read no further.
    """

    def __init__(self, app: ASGIApp, bytes_max: int) -> None:
        self._app, self._bytes_max = app, bytes_max
        self._detail = f"the body is larger than {bytes_max} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._bytes_max:
            problem = Problem("too-large", self._detail, headers={"Connection": "close"})
            await problem.response(scope.get("state", {}).get("request_id"))(scope, receive, send)
            return
        read = 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._bytes_max:
                raise HTTPException(413, self._detail, {"Connection": "close"})  # FastAPI lets no other kind through
            return message

        await self._app(scope, receive_counted, send)
