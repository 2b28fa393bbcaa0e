"""Waking, step 3, once for every part: download, decompress and extract it, pipelined."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.records import catalog
from poorwill.control.snapshot.restore_run import STEP_DEADLINE_S, RestoreRun
from tasks import sessions
from tasks.pack_part import attempt_number
from tasks.retries import policy, transient_with_engine


@task(name="open_restore", **policy(transient_with_engine))
def open_restore(
    run: str,
    snapshot_id: str,
    include: list[str],
    overwrite: bool,
    cache: str | None = None,
    deadline_s: float = STEP_DEADLINE_S,
) -> dict[str, Any]:
    """Check manifest, disk and workspace, and create the directories. Returns `parts` (rows) that hold something to
    fetch perhaps, `fetch_bytes_max` of it, `raw_bytes` of all files, and `resumed`.

    Args:
        run: the id of the connection.
        snapshot_id: what to restore.
        include: globs; empty: everything.
        overwrite: whether files that are there may be replaced; those that are equal are kept.
        cache: a directory on the machine where chunks are looked for before they are fetched, and then kept.
        deadline_s: after this long the engine stops.
    """
    live = sessions.get(run)
    restoring = RestoreRun(
        live.store,
        live.session,
        catalog.find(live.store, snapshot_id),
        live.workspace,
        include=tuple(include),
        overwrite=overwrite,
        cache=cache,
    )
    restoring.open(deadline_s)
    live.restore = restoring
    return {
        "parts": sorted(restoring.parts),
        "fetch_bytes_max": restoring.fetch_bytes_max,
        "raw_bytes": restoring.raw_bytes,
        "resumed": restoring.resumed,
    }


@task(name="restore_part", task_run_name="restore_part-{row:02d}", **policy(transient_with_engine))
def restore_part(run: str, row: int, deadline_s: float = STEP_DEADLINE_S) -> dict[str, Any]:
    """Restore everything the snapshot needs of one part, every hash checked. A repeated call continues.

    Args:
        run: the id of the connection.
        row: of the manifest's part table.
        deadline_s: after this long the engine stops working on it.
    """
    result = sessions.get(run).restoring().restore_part(row, deadline_s, attempt_number())
    return {"row": row, **{k: v for k, v in result.items() if isinstance(v, int)}}
