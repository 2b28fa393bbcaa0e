"""What all requests of one process share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


@dataclass(slots=True)
class Gateway:
    """`app.state.gateway` while the application runs. The Prefect server and the store are asked by the first request
    that needs them: neither has to be there before."""

    settings: Settings
    guard: Guard
    runs: Runs
    watchers: Watchers
    machines: MachineBlocks
    register: Register
    prices: PriceList
    gauges: GaugeCache
    readiness: Readiness
    catalog: Catalog
    threads: Threads

    @classmethod
    def of(cls, settings: Settings, prefect: Prefect) -> Gateway:
        """UsageError for tokens that cannot be read."""
        threads, machines, runs = Threads(), MachineBlocks(prefect), Runs(prefect, settings)
        catalog = Catalog(lambda: store_block(settings.store).open())
        prices = PriceList(catalog, threads)
        sources = all_sources(prefect, settings.pool, catalog, threads, machines, prices)
        return cls(
            settings=settings,
            guard=Guard.of(settings),
            runs=runs,
            watchers=Watchers(runs, settings.streams_max),
            machines=machines,
            register=Register(prefect, machines, threads, settings.provider),
            prices=prices,
            gauges=GaugeCache(sources, HELP, settings.metrics_every_s),
            readiness=Readiness(settings, prefect),
            catalog=catalog,
            threads=threads,
        )

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
    """Opened and closed with the application."""
    async with open_client(settings.prefect_timeout_s) as client:
        gateway = Gateway.of(settings, Prefect(client, settings.prefect_timeout_s))
        try:
            yield gateway
        finally:
            await gateway.close()
