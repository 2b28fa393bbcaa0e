"""Whether all that the gateway needs is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
from pydantic import BaseModel, Field

from api.http.limits import within
from api.http.problems import Problem
from api.runs.caches import Remembered
from api.runs.client import Prefect
from api.settings import Settings
from api.store.threads import Threads
from blocks.lookup import media_block, store_block
from blocks.media import Media
from blocks.stores import LocalStore, S3Store
from poorwill.errors import NotFound, PoorwillError
from poorwill.snapshot import keys

KEPT_S = 2.0


class Check(BaseModel):
    """One thing that the gateway needs."""

    ok: bool = Field(examples=[True])
    detail: str = Field("", examples=["2 online"])
    took_ms: int = Field(examples=[12])


class Ready(BaseModel):
    """All checks."""

    status: str = Field(examples=["ready"])
    checks: dict[str, Check]


class Readiness:
    """`check()` runs all checks at once, each within `ready_timeout_s`. Its answer is kept for `KEPT_S` seconds, and
    only one round of them is under way at a time."""

    def __init__(self, settings: Settings, prefect: Prefect) -> None:
        self._settings, self._prefect = settings, prefect
        self._threads = Threads(at_once=2, timeout_s=settings.ready_timeout_s)
        self.check = Remembered[Ready](self._check_all, KEPT_S).get

    def close(self) -> None:
        self._threads.close()

    async def _check_all(self) -> Ready:
        store, media = self._settings.store, self._settings.media
        checks: dict[str, Callable[[], Awaitable[str]]] = {
            "prefect": self._server,
            "store": partial(self._threads.run, partial(_reach, store_block, store), f"the store block '{store}'"),
            "media": partial(self._threads.run, partial(_reach, media_block, media), f"the media block '{media}'"),
            "worker": self._worker,
        }
        found = await asyncio.gather(*(self._checked(check) for check in checks.values()))
        ready = all(check.ok for check in found)
        return Ready(status="ready" if ready else "not-ready", checks=dict(zip(checks, found, strict=True)))

    async def _checked(self, check: Callable[[], Awaitable[str]]) -> Check:
        began_s = time.monotonic()
        try:
            ok, detail = True, await within(self._settings.ready_timeout_s, check())
        except TimeoutError:
            ok, detail = False, f"no answer in {self._settings.ready_timeout_s:g} s"
        except Problem as problem:
            ok, detail = False, problem.detail
        except PoorwillError as error:
            ok, detail = False, error.message
        except Exception as error:
            ok, detail = False, f"unexpected: {type(error).__name__}"
        return Check(ok=ok, detail=detail, took_ms=round((time.monotonic() - began_s) * 1000))

    async def _server(self) -> str:
        await self._prefect.ask(self._prefect.client.request("GET", "/ready"))
        return "it answers, and its database does"

    async def _worker(self) -> str:
        pool = self._settings.pool
        online = {"workers": {"status": {"any_": ["ONLINE"]}}, "limit": 100}
        try:
            found = await self._prefect.post(f"/work_pools/{pool}/workers/filter", online)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            raise NotFound(f"there is no work pool '{pool}'") from None
        if not found:
            raise NotFound(f"no worker of the pool '{pool}' is online")
        return f"{len(found)} online"


def _reach(block: Callable[[str], LocalStore | S3Store | Media], name: str) -> str:
    """Asks for an object that need not exist: any answer proves that address, bucket and keys are right."""
    store = block(name).open()
    try:
        store.head(f"{keys.SNAPSHOTS}ready")
    except NotFound:
        pass
    finally:
        store.close()
    return "it answers"
