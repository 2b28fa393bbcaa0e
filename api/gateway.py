"""What all requests of one process share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from api.gauges.cache import GaugeCache
from api.gauges.sources import HELP, all_sources
from api.http.auth import Guard
from api.machines.blocks import MachineBlocks
from api.machines.prices import PriceList
from api.machines.register import Register
from api.readiness import Readiness
from api.runs.client import Prefect, open_client
from api.runs.runs import Runs
from api.runs.watching import Watchers
from api.settings import Settings
from api.store.snapshots import Catalog
from api.store.threads import Threads
from blocks.lookup import store_block

T = TypeVar("T")


class Gateway:
    """`app.state.gateway` while the application runs. The Prefect server and the store are asked by the first request
    that needs them: neither has to be there before."""

    def __init__(self, settings: Settings, prefect: Prefect) -> None:
        """UsageError for tokens that cannot be read."""
        self.settings, self.guard = settings, Guard(settings)
        self.threads, self.readiness = Threads(), Readiness(settings, prefect)
        self.runs = Runs(prefect, settings)
        self.watchers = Watchers(self.runs, settings.streams_max)
        self.machines = MachineBlocks(prefect)
        self.register = Register(prefect, self.machines, self.threads, settings.provider)
        self.catalog = Catalog(lambda: store_block(settings.store).open())
        self.prices = PriceList(self.catalog, self.threads)
        sources = all_sources(prefect, settings.pool, self.catalog, self.threads, self.machines, self.prices)
        self.gauges = GaugeCache(sources, HELP, settings.metrics_every_s)

    async def ask_store(self, call: Callable[[Catalog], T]) -> T:
        """What `call` finds in the catalog of snapshots, or raises. Problem `unavailable`."""
        return await self.threads.run(partial(call, self.catalog), "the store")

    async def close(self) -> None:
        await self.watchers.close()
        self.readiness.close()
        await self.gauges.close()
        self.threads.close()
        self.catalog.close()
        await self.runs.close()


@asynccontextmanager
async def open_gateway(settings: Settings) -> AsyncIterator[Gateway]:
    async with open_client(settings.prefect_timeout_s) as client:
        gateway = Gateway(settings, Prefect(client, settings.prefect_timeout_s))
        try:
            yield gateway
        finally:
            await gateway.close()
