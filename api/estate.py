"""The machines and their snapshots, as all requests of one process see them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from api.gauges.cache import Board
from api.gauges.sources import MachinesByStatus, Queues, RunsByFlow, Snapshots, Stages
from api.http.problems import Problem
from api.machines.addresses import Reach
from api.machines.blocks import Entry, Machines
from api.machines.prices import PriceList, Prices
from api.machines.register import Admission
from api.runs.client import Server
from api.runs.orders import Orders, Parameters
from api.runs.run_view import RunView
from api.runs.runs import Runs
from api.settings import Settings
from api.store.snapshots import Catalog
from api.store.threads import Threads
from blocks.lookup import store_block
from poorwill.errors import PoorwillError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Estate:
    """Nobody is asked for anything before the first request that needs it."""

    threads: Threads
    machines: Machines
    admission: Admission
    catalog: Catalog
    prices: PriceList
    orders: Orders
    board: Board

    @classmethod
    def of(cls, settings: Settings, server: Server, runs: Runs) -> Estate:
        threads, machines = Threads(), Machines(server)
        catalog = Catalog(lambda: store_block(settings.store).open())
        prices = PriceList(catalog, threads)
        sources = (
            RunsByFlow(server),
            Queues(server, settings.pool),
            Stages(server),
            Snapshots(catalog, threads),
            MachinesByStatus(machines, prices),
        )
        return cls(
            threads=threads,
            machines=machines,
            admission=Admission(server, machines, threads, settings.provider),
            catalog=catalog,
            prices=prices,
            orders=Orders(server, runs),
            board=Board(sources, settings.metrics_every_s),
        )

    async def block_of(
        self, instance_id: str | None, reach: Reach, earlier: Parameters, *, destroys: bool = False
    ) -> str:
        """The block of the machine that a request means, made or brought up to date; that of the run which an earlier
        request with the same idempotency key created, as it is. Problems: see Admission."""
        if earlier:
            return str(earlier.get("machine"))
        if instance_id is None:
            return (await self.admission.at(reach)).block
        return (await self.admission.awake(instance_id, reach, destroys=destroys)).block

    async def shown(self, view: RunView) -> Entry | None:
        """The machine of a run, as it is now."""
        if view.machine is None:
            return None
        entries = await self.machines.every(fresh=view.status.is_over)
        return next((entry for entry in entries if entry.block == view.machine), None)

    async def known_prices(self) -> Prices:
        """None of them, where the store does not answer: machines are shown without it."""
        try:
            return await self.prices.known()
        except (Problem, PoorwillError) as error:
            log.warning("the prices of machines are not known: %s", error)
            return {}

    async def close(self) -> None:
        await self.board.close()
        self.threads.close()
        self.catalog.close()
