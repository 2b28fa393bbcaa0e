"""Step 6: proof that it can be woken."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.records import catalog
from poorwill.control.snapshot.verify_run import VerifyRun
from tasks import sessions
from tasks.retries import policy


@task(name="verify_snapshot", **policy())
def verify_snapshot(run: str, machine: str, store: str, workspace: str, mode: str) -> dict[str, Any]:
    """Read the snapshot back from the store and write the verification record. Returns what was read.

    Args:
        run: the id of the connection, which is the snapshot's.
        machine: name of a machine block.
        store: name of a store block.
        workspace: path on the machine.
        mode: stored, full or sample.
    """
    live = sessions.reach(run, machine, store, workspace)
    metadata = catalog.read(live.store, live.machine, run)
    record = VerifyRun(live.store, live.session, metadata, mode=mode, all_parts=False).run_all()
    return {
        "mode": record["mode"],
        "bytes_read": record["bytes_read"],
        "chunks_sampled": record["chunks_sampled"],
        "parts_read": sum(part["read"] for part in record["parts"]),
    }
