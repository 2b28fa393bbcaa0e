"""Step 6: proof that it can be woken."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.records import catalog
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.snapshot.order import SnapshotOrder
from tasks.retries import policy
from tasks.sessions import sessions


@task(name="verify_snapshot", **policy())
def verify_snapshot(machine: str, store: str, order: SnapshotOrder) -> dict[str, Any]:
    """Read the snapshot back from the store and write the verification record. Returns what was read.

    Args:
        machine: name of a machine block.
        store: name of a store block.
        order: what was taken, and how it is verified. The snapshot's id is that of the connection.
    """
    live = sessions.reach(order.snapshot_id, machine, store, order.workspace)
    metadata = catalog.read(live.store, live.machine, order.snapshot_id)
    record = VerifyRun(live.store, live.session, metadata, mode=order.verify, all_parts=False).run_all()
    return {
        "mode": record.mode,
        "bytes_read": record.bytes_read,
        "chunks_sampled": record.chunks_sampled,
        "parts_read": sum(part.read for part in record.parts),
    }
