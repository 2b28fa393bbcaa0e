"""URLs of the videos of finished runs, presigned by the store of their media block, without Prefect."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

from cachetools import TLRUCache

from api.store.threads import Threads
from blocks.lookup import media_block
from poorwill.media import delivery
from poorwill.store.base import Store

OPENED_MAX, OPENED_S = 16, 300.0
URLS_MAX, URLS_S = 2048, 600.0


@dataclass(frozen=True, slots=True)
class Video:
    """URLs that a browser can open for `expires_s`."""

    url: str
    poster_url: str
    expires_s: int


@dataclass(frozen=True, slots=True)
class _Opened:
    store: Store
    expires_s: int
    until_s: float


class Videos:
    """Opens each media block now and then, and presigns: the store itself is not asked.

    URLs are kept for ten minutes, at most for half of their life, and for the `URLS_MAX` runs asked for last.
    """

    def __init__(self) -> None:
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._opening: dict[str, asyncio.Task[_Opened]] = {}
        self._videos: TLRUCache[UUID, Video, float] = TLRUCache(
            URLS_MAX, lambda run, video, now_s: now_s + min(URLS_S, video.expires_s / 2)
        )
        self._threads = Threads(at_once=4, timeout_s=10.0)

    async def of(self, run: UUID, media: str) -> Video:
        """NotFound and UsageError for an unknown media block; Problem `unavailable` if it could not be read."""
        if (kept := self._videos.get(run)) is not None:
            return kept
        opened = await self._open(media)
        found = delivery.urls(opened.store, str(run), opened.expires_s)
        video = self._videos[run] = Video(found["video"], found["poster"], opened.expires_s)
        return video

    def close(self) -> None:
        self._threads.close()
        for opened in self._opened.values():
            opened.store.close()

    async def _open(self, media: str) -> _Opened:
        opened = self._opened.get(media)
        if opened is not None and opened.until_s > time.monotonic():
            return opened
        task = self._opening.get(media)
        if task is None:
            task = self._opening[media] = asyncio.create_task(self._open_anew(media))
            task.add_done_callback(lambda _: self._opening.pop(media, None))
        return await asyncio.shield(task)

    async def _open_anew(self, media: str) -> _Opened:
        def load() -> tuple[Store, int]:
            block = media_block(media)
            return block.open(), block.url_expires_s

        store, expires_s = await self._threads.run(load, f"the media block '{media}'")
        before = self._opened.pop(media, None)
        opened = self._opened[media] = _Opened(store, expires_s, time.monotonic() + OPENED_S)
        if before is not None:
            before.store.close()
        while len(self._opened) > OPENED_MAX:
            self._opened.popitem(last=False)[1].store.close()
        return opened
