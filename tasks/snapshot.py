"""The steps of taking a snapshot, in their order."""

from __future__ import annotations

import time
from typing import Any

from prefect import task
from prefect.logging import get_run_logger

from poorwill.control.records import catalog
from poorwill.control.records.pending import PendingRecord
from poorwill.control.snapshot.lending import doubt_about, doubt_about_backup
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.snapshot.order import SnapshotOrder
from tasks.retries import attempt_number, policy, transient_or_upload_gone, transient_with_engine
from tasks.sessions import sessions


@task(name="scan_workspace", **policy(transient_with_engine))
def scan_workspace(run: str, order: SnapshotOrder) -> dict[str, Any]:
    """Write the pending record, adopt the parts an earlier try completed, walk, and plan the parts.

    Returns `committed` alone if the snapshot exists already, else also `parts` (numbers), `entries`,
    `raw_bytes`, `pack_bytes`, `adopted` (how many parts an earlier try had completed) and `packs_in_full` (why the
    parent lends nothing, or None).
    """
    live = sessions.get(run)
    # A run that proves nothing itself asks no proof of its parent.
    doubt = doubt_about_backup if order.verify == "sample" else doubt_about
    order = live.located(order)
    snapshot = SnapshotRun(live.store, live.session, order, doubt=doubt, attempt=sessions.attempt(run))
    if snapshot.open() is not None:
        return {"committed": True, "parts": []}
    scanned = snapshot.scan()
    for warning in scanned.warnings:
        get_run_logger().warning("%s", warning)
    live.snapshot = snapshot
    return {
        "committed": False,
        "parts": sorted(scanned.parts),
        "adopted": len(snapshot.adopted),
        "packs_in_full": snapshot.packs_in_full,
        **{name: getattr(scanned, name) for name in ("entries", "files", "raw_bytes", "pack_bytes")},
    }


@task(name="pack_part", task_run_name="pack_part-{number:02d}", **policy(transient_or_upload_gone))
def pack_part(run: str, number: int) -> dict[str, Any]:
    """Have one part compressed and sent, and complete its upload. A repeated call starts this part over."""
    began_s = time.monotonic()
    sent = sessions.snapshot(run).pack_part(number, attempt_number())
    return {
        "number": number,
        "raw_bytes": sent.raw_bytes,
        "stored_bytes": sent.stored_bytes,
        "bytes": sent.bytes,
        "milliseconds": round((time.monotonic() - began_s) * 1000),
    }


@task(name="settle", **policy(transient_with_engine))
def settle(run: str) -> list[int]:
    """Scan again. Returns the numbers of the parts to pack for what changed; empty when nothing did."""
    return sorted(sessions.snapshot(run).settle())


@task(name="write_metadata", **policy(transient_with_engine))
def write_metadata(run: str) -> dict[str, Any]:
    """Check that every part is in the store, write the manifest, then the metadata: with this the snapshot exists.

    Returns the totals.
    """
    return sessions.snapshot(run).write_metadata().totals.document()


@task(name="verify_snapshot", **policy())
def verify_snapshot(machine: str, store: str, order: SnapshotOrder) -> dict[str, Any]:
    """Read the snapshot back from the store and write the verification record. Returns what was read.

    The snapshot's id is that of the connection.
    """
    live = sessions.reach(order.snapshot_id, machine, store, order.workspace)
    metadata = catalog.read(live.store, live.machine, order.snapshot_id)
    pending = PendingRecord(live.store, live.machine, order.snapshot_id, sessions.attempt(order.snapshot_id))
    pending.take_over_existing()
    run = VerifyRun(live.store, live.session, metadata, mode=order.verify, all_parts=False, fence=pending.check)
    record = run.run_all()
    return {
        "mode": record.mode,
        "bytes_read": record.bytes_read,
        "chunks_sampled": record.chunks_sampled,
        "parts_read": sum(part.read for part in record.parts),
    }
