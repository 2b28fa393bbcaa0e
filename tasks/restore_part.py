"""Waking, step 3, once for every part: download, decompress and extract it, pipelined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect import task

from poorwill.control.records import catalog
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.snapshot.order import RestoreOrder
from tasks.retries import attempt_number, policy, transient_with_engine
from tasks.sessions import sessions


@task(name="open_restore", **policy(transient_with_engine))
def open_restore(run: str, snapshot_id: str, order: RestoreOrder) -> dict[str, Any]:
    """Check manifest, disk and workspace, and create the directories. Returns `parts` (rows) that hold something to
    fetch perhaps, `fetch_bytes_max` of it, `raw_bytes` of all files, and `resumed`.

    Args:
        run: the id of the connection.
        snapshot_id: what to restore.
        order: how to restore it.
    """
    live = sessions.get(run)
    order = replace(order, workspace=live.workspace)
    restore = RestoreRun(live.store, live.session, catalog.find(live.store, snapshot_id), order)
    restore.open()
    live.restore = restore
    return {
        "parts": sorted(restore.parts),
        "fetch_bytes_max": restore.fetch_bytes_max,
        "raw_bytes": restore.raw_bytes,
        "resumed": restore.resumed,
    }


@task(name="restore_part", task_run_name="restore_part-{row:02d}", **policy(transient_with_engine))
def restore_part(run: str, row: int) -> dict[str, Any]:
    """Restore everything the snapshot needs of one part, every hash checked. A repeated call continues.

    Args:
        run: the id of the connection.
        row: of the manifest's part table.
    """
    restored = sessions.restore(run).restore_part(row, attempt_number())
    return {"row": row, "chunks": restored.chunks, "stored_bytes": restored.stored_bytes}
