"""The flow that removes one snapshot."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from prefect import flow

from blocks.lookup import store_block
from flows.slots import store_slot
from flows.stages import failed
from poorwill.errors import PoorwillError
from poorwill.snapshot import ids
from tasks.removal import delete_snapshot


@flow(name="delete", flow_run_name="delete-{snapshot}", persist_result=False)
def delete(store: str, snapshot: str, force: bool = False) -> dict[str, Any]:
    """Remove a snapshot from a store, at once and for good; what other snapshots need of it is kept.

    Args:
        store: Name of a store block, for example `weights`.
        snapshot: Its id.
        force: Also if a machine is asleep in it, or the run that takes it has not ended: then that run is given up, and
            nothing may work on it.
    """
    try:
        ids.checked_snapshot_id(snapshot)
        with closing(store_block(store).open()) as opened, store_slot(opened):
            return delete_snapshot(store, snapshot, force)
    except PoorwillError as error:
        return failed(error)
