"""One hibernate, snapshot or wake at a time for a machine, and one removal of snapshots at a time for a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists

from poorwill.control.records.intents import store_tag
from poorwill.errors import Refused
from poorwill.store.base import Store

_PREFIX = "machine-"
_PAGE = 200
LEASE_S = 60.0
"""How long a killed run keeps its machine; Prefect renews the lease of a live one, and allows no shorter."""
WAIT_S = 120.0
"""Longer than a lease and Prefect's look for expired ones, so that a run begun again after a kill gets its turn."""


def slot_name(machine: str) -> str:
    """The name of the machine's global concurrency limit, as an operator sees it."""
    return f"{_PREFIX}{machine}"


def held_machines() -> set[str]:
    """The machines that runs work on now; those of a killed run for as long as its lease lasts."""
    held: set[str] = set()
    with get_client(sync_client=True) as client:
        for offset in range(0, 100_000, _PAGE):
            page = client.read_global_concurrency_limits(limit=_PAGE, offset=offset)
            taken = (limit.name for limit in page if limit.active_slots > 0)
            held |= {name.removeprefix(_PREFIX) for name in taken if name.startswith(_PREFIX)}
            if len(page) < _PAGE:
                return held
    raise Refused("Prefect holds more concurrency limits than can be read: delete those of machines that are gone")


def machine_slot(machine: str, wait_s: float = WAIT_S) -> AbstractContextManager[None]:
    """Hold the machine's only slot. Refused if another run has it and keeps it for `wait_s`."""
    return _slot(slot_name(machine), f"machine {machine}", wait_s)


def store_slot(store: Store, wait_s: float = WAIT_S) -> AbstractContextManager[None]:
    """Hold the only slot for removing from a store. Refused if another run has it and keeps it for `wait_s`.

    Runs that take snapshots, wake or verify need no slot: the store's records protect what they use.
    """
    return _slot(f"store-{store_tag(store)}", f"the snapshots of {store.describe()}", wait_s)


@contextmanager
def _slot(name: str, what: str, wait_s: float) -> Iterator[None]:
    # A limit that does not exist would be passed silently. Another run may make it at the same time.
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.upsert_global_concurrency_limit_by_name(name, 1)
    slot = concurrency(
        name, timeout_seconds=wait_s, strict=True, lease_duration=LEASE_S, raise_on_lease_renewal_failure=True
    )
    with ExitStack() as held:
        try:
            held.enter_context(slot)
        except TimeoutError:
            raise Refused(
                f"another run works on {what} since {wait_s:.0f} s or more: wait for it, or cancel it "
                f"(concurrency limit {name})"
            ) from None
        yield
