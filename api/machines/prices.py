"""The prices of machines as far as the store knows them, without asking a provider: the records of machines that
Poorwill created hold the price at which they were created."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice

from api.http.problems import Problem
from api.machines.blocks import MachineBlock
from api.runs.caches import Remembered
from api.store.snapshots import Catalog
from api.store.threads import Threads
from poorwill.control.records import intents
from poorwill.errors import PoorwillError
from poorwill.providers.registry import PROVIDERS

log = logging.getLogger(__name__)
REMEMBERED_S = 15.0
INTENTS_MAX = 1000
_FREE = [entry.slug for entry in PROVIDERS if not entry.bills]
Prices = Mapping[tuple[str, str], float | None]
"""By machine and instance, in US dollars per hour; None where the provider did not say."""


class PriceList:
    """The prices on record, read at most REMEMBERED_S ago. Errors are the store's."""

    def __init__(self, catalog: Catalog, threads: Threads) -> None:
        self._catalog = catalog
        self.known = Remembered[Prices](lambda: threads.run(self._read, "the store"), REMEMBERED_S).get

    async def known_or_none(self) -> Prices:
        """Empty if the store does not answer: machines are shown without their prices then."""
        try:
            return await self.known()
        except (Problem, PoorwillError) as error:
            log.warning("the prices of machines are not known: %s", error)
            return {}

    def _read(self) -> Prices:
        found = islice(intents.every(self._catalog.store), INTENTS_MAX)
        return {(one.machine, one.instance): one.price for one in found if one.instance}


def price_per_hour(machine: MachineBlock, known: Prices) -> float | None:
    """What a machine costs now: 0 if it costs nothing, None if the price is not known."""
    if not machine.instance or machine.kind in _FREE:
        return 0.0
    return known.get((machine.machine, machine.instance))
