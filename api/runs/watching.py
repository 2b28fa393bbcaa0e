"""Following runs: one watcher for each followed run, however many follow it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from api.http.limits import within
from api.http.problems import Problem
from api.runs.run_view import RunView
from api.runs.runs import Runs

log = logging.getLogger(__name__)


class Follower:
    """The newest view that one listener has not got yet. A slow listener misses the older ones."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._view: RunView | None = None
        self._error: Exception | None = None

    def tell(self, view: RunView) -> None:
        self._view = view
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

    async def next(self, timeout_s: float) -> RunView | None:
        """The next view; None if nothing changed in that time. Raises the error that ended the watching."""
        try:
            await within(timeout_s, self._news.wait())
        except TimeoutError:
            return None
        self._news.clear()
        view, self._view = self._view, None
        if view is None and self._error is not None:
            raise self._error
        return view


class Watchers:
    """`async with of(run) as follower:`; at most `followers_max` at once. A watcher ends with its last follower."""

    def __init__(self, runs: Runs, followers_max: int, look_every_s: float = 0.5) -> None:
        self._runs, self._followers_max, self._look_every_s = runs, followers_max, look_every_s
        self._followers: dict[UUID, set[Follower]] = {}
        self._watchers: dict[UUID, asyncio.Task[None]] = {}
        self._followers_count = 0

    @asynccontextmanager
    async def of(self, run_id: UUID) -> AsyncIterator[Follower]:
        """The first view is there at once. Problems: not-found, too-many-requests, unavailable."""
        if self._followers_count >= self._followers_max:
            detail = f"{self._followers_count} streams are open, as many as are allowed"
            raise Problem("too-many-requests", detail, retry_after_s=10.0)
        self._followers_count += 1
        follower = Follower()
        try:
            follower.tell(await self._runs.view(run_id))
            self._followers.setdefault(run_id, set()).add(follower)
            if run_id not in self._watchers:
                self._watchers[run_id] = asyncio.create_task(self._watch(run_id), name=f"watch {run_id}")
            yield follower
        finally:
            self._followers_count -= 1
            self._leave(run_id, follower)

    async def close(self) -> None:
        watchers = list(self._watchers.values())
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    def _leave(self, run_id: UUID, follower: Follower) -> None:
        followers = self._followers.get(run_id)
        if followers is None:
            return
        followers.discard(follower)
        if not followers:
            del self._followers[run_id]
            if (watcher := self._watchers.pop(run_id, None)) is not None:
                watcher.cancel()

    async def _watch(self, run_id: UUID) -> None:
        """Tell the followers each new view until the run is over. Goes on after a time without a server."""
        last: RunView | None = None
        while True:
            pause_s = self._look_every_s
            try:
                view = await self._runs.view(run_id)
            except Problem as problem:
                if problem.status == 404:
                    return self._fail(run_id, problem)
                pause_s = 2.0  # the server did not answer
            except Exception as error:
                log.exception("run %s is no longer followed", run_id)
                return self._fail(run_id, error)
            else:
                if view != last:
                    for follower in self._followers.get(run_id, ()):
                        follower.tell(view)
                    last = view
                if view.status.is_over:
                    return None
            await asyncio.sleep(pause_s)

    def _fail(self, run_id: UUID, error: Exception) -> None:
        for follower in self._followers.get(run_id, ()):
            follower.fail(error)
