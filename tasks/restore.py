"""The steps of restoring a snapshot, in their order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect import task

from poorwill.control.records import catalog
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.snapshot import fields
from poorwill.snapshot.order import RestoreOrder
from tasks.retries import attempt_number, policy, transient_with_engine
from tasks.sessions import sessions


@task(name="open_restore", **policy(transient_with_engine))
def open_restore(run: str, snapshot_id: str, order: RestoreOrder) -> dict[str, Any]:
    """Check manifest, disk and workspace, and create the directories. Returns `parts` (rows) that hold something to
    fetch perhaps, `fetch_bytes_max` of it, `raw_bytes` of all files, `resumed`, and `already_done`.
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
        "already_done": restore.already_done,
    }


@task(name="restore_part", task_run_name="restore_part-{row:02d}", **policy(transient_with_engine))
def restore_part(run: str, row: int) -> dict[str, Any]:
    """Restore everything the snapshot needs of one part, a row of the manifest's part table, every hash checked.

    A repeated call continues.
    """
    restored = sessions.restore(run).restore_part(row, attempt_number())
    return {"row": row, "chunks": restored.chunks, "stored_bytes": restored.stored_bytes}


@task(name="finish_restore", **policy(transient_with_engine))
def finish_restore(run: str) -> dict[str, Any]:
    """Links, directory times, set-id bits. Returns how many of each kind were restored, and what was left out."""
    return fields.write(sessions.restore(run).finish())
