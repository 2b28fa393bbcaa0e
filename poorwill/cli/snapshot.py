"""`poorwill snapshot`."""

from __future__ import annotations

import argparse
from contextlib import closing

from poorwill.cli import hosts
from poorwill.cli.output import LEFT_OUT, Output
from poorwill.cli.parts import all_parts
from poorwill.control.snapshot.lending import doubt_about_backup
from poorwill.control.snapshot.presigned_grants import check_reachable
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import PermanentError, Refused
from poorwill.remote.base import Host
from poorwill.snapshot import ids
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import SnapshotOrder
from poorwill.store.address import open_store
from poorwill.timestamps import timed


def snapshot(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    machine = arguments.machine or ids.machine_name_from(hosts.name_of(arguments))
    order = SnapshotOrder(
        machine=machine,
        snapshot_id=arguments.id or ids.new_snapshot_id(),
        workspace=hosts.path_on(arguments, arguments.directory),
        parent=arguments.parent,
        codec=arguments.codec,
        portable=arguments.portable,
        parts=arguments.parts,
        exclude=tuple(arguments.exclude),
        skip_unreadable=arguments.skip_unreadable,
        name=arguments.name,
        tags=tuple(arguments.tag),
        writers="ignore",
        allow_shrink=arguments.allow_shrink,
    )
    with closing(EngineSession(host)) as session:
        store = open_store(arguments.store)
        check_reachable(store, host)
        # Nothing that this program takes is verified unless somebody asks for it.
        run = SnapshotRun(store, session, order, doubt=doubt_about_backup)
        metadata = run.open()
        if metadata is None:
            output.hint = f"to continue: run the same command again with --machine {machine} --id {order.snapshot_id}"
            output.event("begun", snapshot_id=order.snapshot_id, machine=machine)
            session.hello(order.workspace)
            metadata = _take(run, output)
        elif not run.remove_pending():
            raise Refused(f"snapshot {order.snapshot_id} exists already: take a new one without --id")
    output.left_out([left.document() for left in metadata.left_out], metadata.left_out_count)
    output.done(
        f"snapshot {order.snapshot_id} of {machine}", metadata.totals.document(), snapshot_id=order.snapshot_id,
        machine=machine, parent=metadata.parent, packs_in_full=run.packs_in_full,
        left_out_count=metadata.left_out_count, timings_ms=metadata.timings_ms,
        coding=metadata.coding.document() if metadata.coding else None,
    )  # fmt: skip
    return LEFT_OUT if metadata.left_out_count else 0


def _take(run: SnapshotRun, output: Output) -> Metadata:
    with output.progress("scanning") as progress:
        run.session.on_progress = lambda counters: progress.entries(counters["entries"])
        try:
            scanned = run.scan()
        except PermanentError:
            if not run.adopted:
                run.remove_pending()  # nothing was begun, and a record left behind would keep the parent's parts
                output.hint = ""
            raise
    not_kept = scanned.surroundings.not_kept() if scanned.surroundings is not None else []
    output.warnings([*scanned.warnings, *filter(None, [run.packs_in_full]), *not_kept])
    output.event(
        "scanned", entries=scanned.entries, raw_bytes=scanned.raw_bytes, parts=len(run.planned),
        warnings=scanned.warnings, packs_in_full=run.packs_in_full, not_kept=not_kept,
    )  # fmt: skip
    total = scanned.pack_bytes
    while run.planned:
        with output.progress("packing", total) as progress, timed(run.timings_ms, "pack"):
            run.session.on_progress = lambda counters: progress.bytes(counters["read_bytes"], counters["coded_bytes"])
            all_parts(run.pack_part, run.planned)
        run.settle()
        total = sum(run.planned.values()) + run.session.counters.get("read_bytes", 0)
    metadata = run.write_metadata()
    run.remove_pending()
    return metadata
