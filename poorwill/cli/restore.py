"""`poorwill restore`."""

from __future__ import annotations

import argparse
from contextlib import closing

from poorwill.cli import hosts
from poorwill.cli.output import LEFT_OUT, Output
from poorwill.cli.parts import all_parts
from poorwill.control.records import catalog
from poorwill.control.snapshot.presigned_grants import check_reachable
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.protocol.answers import Restored
from poorwill.remote.base import Host
from poorwill.snapshot import fields
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.sizes import human
from poorwill.store.address import open_store
from poorwill.timestamps import timed


def restore(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    timings_ms = dict[str, int]()
    with closing(EngineSession(host)) as session:
        store = open_store(arguments.store)
        check_reachable(store, host)
        metadata = catalog.find(store, arguments.id)
        order = RestoreOrder(
            hosts.path_on(arguments, arguments.directory), tuple(arguments.include), arguments.overwrite,
            arguments.privileged, hosts.path_on(arguments, arguments.cache) if arguments.cache else None,
        )  # fmt: skip
        run = RestoreRun(store, session, metadata, order)
        session.hello(order.workspace)
        run.open()
        output.hint = "to continue: run the same command again"
        with output.progress("restoring", run.raw_bytes) as progress, timed(timings_ms, "restore"):
            session.on_progress = lambda counters: progress.bytes(
                counters["written_bytes"] + counters["kept_bytes"], counters["fetched_bytes"]
            )
            all_parts(run.restore_part, run.parts)
        result = run.finish()
    output.left_out([fields.write(left) for left in result.left_out], result.left_out_count)
    output.warnings(result.warnings)
    origins = {name: getattr(result, name) for name in ("kept_bytes", "cached_bytes", "fetched_bytes")}
    figures = {"raw_bytes": result.raw_bytes, "stored_bytes": metadata.totals.stored_bytes, **origins}
    output.done(
        _what(metadata.snapshot_id, order.workspace, result),
        figures if arguments.json or not result.already_done else {},
        snapshot_id=metadata.snapshot_id, restored=result.restored, left_out_count=result.left_out_count,
        already_done=result.already_done, warnings=result.warnings, timings_ms=timings_ms,
    )  # fmt: skip
    return LEFT_OUT if result.left_out_count else 0


def _what(snapshot_id: str, workspace: str, result: Restored) -> str:
    if result.already_done:
        return (
            f"snapshot {snapshot_id} was restored to {workspace} before: nothing was done, and what was changed there "
            "since is as it was; to restore it anew: --overwrite"
        )
    origins = {"stood there": result.kept_bytes, "came from the cache": result.cached_bytes}
    notes = [f"{human(count)} {whence}" for whence, count in origins.items() if count]
    return f"snapshot {snapshot_id} restored to {workspace}" + (f" ({', '.join(notes)})" if notes else "")
