"""Step 7: the machine goes, and only after the store was asked once more."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import task

from blocks.lookup import machine_block, save_machine, store_block
from blocks.machines import Machine
from poorwill.control.machine.destruction import check_destroyable, check_unchanged
from poorwill.control.machine.provisioning import DESTROY_TIMEOUT_S
from poorwill.control.records import intents
from poorwill.control.records.pending import PendingRecord
from poorwill.errors import EngineFailed
from poorwill.snapshot import keys
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.base import Store
from tasks.retries import policy
from tasks.sessions import sessions


@task(name="destroy_instance", **policy())
def destroy_instance(machine: str, store: str, order: SnapshotOrder) -> dict[str, Any]:
    """Destroy the machine if losing it loses nothing: verified in full, and its workspace unchanged since.

    It re-reads all of that from the store and the machine, whoever calls it. Asks the provider until the
    instance is gone, then notes it in the machine's block and removes the records that it was awake and pending.
    Refused otherwise, and if another run has gone on with the snapshot. `hidden_processes` in the result: how many
    could not be looked into.
    """
    block, snapshot_id = machine_block(machine), order.snapshot_id
    provider, instance, hidden = block.provider.open(), block.instance, 0
    with closing(store_block(store).open()) as opened:
        metadata = check_destroyable(opened, block.name, snapshot_id, instance, allow_shrink=order.allow_shrink)
        if provider.exists(instance):
            live = sessions.reach(snapshot_id, machine, store, order.workspace)
            hidden = check_unchanged(live.store, live.session, live.located(order), metadata).hidden
            PendingRecord(opened, block.name, snapshot_id, sessions.attempt(snapshot_id)).check()
            sessions.stop(snapshot_id)
            provider.destroy(instance, DESTROY_TIMEOUT_S)
            if provider.exists(instance):
                raise EngineFailed(f"{provider.describe()} says that {instance} is still there: it goes on billing")
        note_asleep(machine, block, opened, snapshot_id, provider.describe())
    return {"instance": instance, "destroyed": True, "hidden_processes": hidden}


def note_asleep(name: str, block: Machine, store: Store, snapshot_id: str, provider: str) -> None:
    """The bookkeeping after an instance is gone. The pending record goes last: a run that continues needs it."""
    instance, block = block.instance, machine_block(name)
    if block.instance == instance:  # else somebody who overtook us has noted it, and may have woken the machine since
        block.instance, block.status, block.snapshot = "", "asleep", snapshot_id
        save_machine(name, block)
    intents.close_of_instance(store, block.name, provider, instance)
    store.delete(keys.pending(block.name, snapshot_id))
