"""Step 2: what there is to pack."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.snapshot.order import SnapshotOrder
from tasks.retries import policy, transient_with_engine
from tasks.sessions import sessions


@task(name="scan_workspace", **policy(transient_with_engine))
def scan_workspace(run: str, order: SnapshotOrder) -> dict[str, Any]:
    """Write the pending record, adopt the parts an earlier try completed, walk, and plan the parts.

    Returns `committed` alone if the snapshot exists already, else also `parts` (numbers), `entries`,
    `raw_bytes`, `pack_bytes` and `adopted` (how many parts an earlier try had completed).

    Args:
        run: the id of the connection.
        order: what to take.
    """
    live = sessions.get(run)
    snapshot = SnapshotRun(live.store, live.session, live.located(order))
    if snapshot.open() is not None:
        return {"committed": True, "parts": []}
    scanned = snapshot.scan()
    live.snapshot = snapshot
    return {
        "committed": False,
        "parts": sorted(scanned.parts),
        "adopted": len(snapshot.adopted),
        **{name: getattr(scanned, name) for name in ("entries", "files", "raw_bytes", "pack_bytes")},
    }
