"""Step 2: what there is to pack."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.snapshot.snapshot_run import STEP_DEADLINE_S, Order, SnapshotRun
from tasks import sessions
from tasks.retries import policy, transient_with_engine


def order_from(live: sessions.Live, order: dict[str, Any]) -> Order:
    """The order of plain values, with what the connection knows. UsageError."""
    fields = {**order, **{name: tuple(order.get(name, ())) for name in ("exclude", "tags")}}
    return Order(machine=live.machine, instance=live.instance, workspace=live.workspace, **fields).check()


@task(name="scan_workspace", **policy(transient_with_engine))
def scan_workspace(run: str, order: dict[str, Any], deadline_s: float = STEP_DEADLINE_S) -> dict[str, Any]:
    """Write the pending record, adopt the parts an earlier try completed, walk, and plan the parts.

    Returns `committed` alone if the snapshot exists already, else also `parts` (numbers), `entries`,
    `raw_bytes`, `pack_bytes` and `adopted` (how many parts an earlier try had completed).

    Args:
        run: the id of the connection.
        order: snapshot_id, parent, codec, portable, parts, exclude, skip_unreadable, name, tags.
        deadline_s: after this long the scan is cancelled.
    """
    live = sessions.get(run)
    taking = SnapshotRun(live.store, live.session, order_from(live, order))
    if taking.open() is not None:
        return {"committed": True, "parts": []}
    scanned = taking.scan(deadline_s)
    live.snapshot = taking
    return {
        "committed": False,
        "parts": sorted(taking.planned),
        "adopted": len(taking.adopted),
        **{k: scanned[k] for k in ("entries", "files", "raw_bytes", "pack_bytes")},
    }
