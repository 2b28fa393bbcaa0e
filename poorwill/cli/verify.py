"""`poorwill verify`, and `poorwill convert`, whose result is verified."""

from __future__ import annotations

import argparse
from contextlib import closing

from poorwill.cli.output import Output
from poorwill.cli.parts import all_parts
from poorwill.control.records import catalog
from poorwill.control.records.verified import Verified
from poorwill.control.snapshot.convert_run import ConvertRun, is_portable
from poorwill.control.snapshot.presigned_grants import check_reachable
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.errors import Corrupt, NotFound, UsageError
from poorwill.remote.base import Host
from poorwill.snapshot import fields, ids
from poorwill.snapshot.metadata import Metadata
from poorwill.store.address import open_store
from poorwill.timestamps import timed


def verify(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    with closing(EngineSession(host)) as session:
        store = open_store(arguments.store)
        metadata = catalog.find(store, arguments.id)
        session.hello("/")
        run = VerifyRun(store, session, metadata, mode="full" if arguments.full else "stored")
        record = _read_back(run, output)
    output.warnings(run.warnings)
    what = "decoded" if arguments.full else "read back"
    output.done(
        f"snapshot {arguments.id}: every byte {what} and equal to its hash",
        {"bytes_read": record.bytes_read, "parts": len(record.parts)},
        snapshot_id=arguments.id,
        mode=record.mode,
        warnings=run.warnings,
    )
    return 0


def _read_back(run: VerifyRun, output: Output) -> Verified:
    run.open()
    before = run.session.counters.get("checked_bytes", 0)
    with output.progress("verifying", sum(run.parts.values())) as progress:
        run.session.on_progress = lambda counters: progress.bytes(*[counters["checked_bytes"] - before] * 2)
        all_parts(run.verify_part, run.parts)
    run.sample()
    return run.record()


def convert(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    if not arguments.portable:
        raise UsageError("convert: the only conversion there is makes a snapshot that any CPU reads: give --portable")
    store = open_store(arguments.store)
    check_reachable(store, host)
    source = catalog.find(store, arguments.id)
    if is_portable(source):
        output.done(
            f"snapshot {arguments.id} is portable already: nothing was converted", {},
            snapshot_id=arguments.id, machine=source.machine, converted=False,
        )  # fmt: skip
        return 0
    with closing(EngineSession(host)) as session:
        session.hello("/")
        run = ConvertRun(store, session, source, arguments.new_id or ids.id_behind(arguments.id))
        metadata, record = _convert(run, output)
    output.done(
        f"snapshot {run.snapshot_id} of {run.machine} is {arguments.id} for any CPU, every byte read back",
        metadata.totals.document(), snapshot_id=run.snapshot_id, machine=run.machine, converted=True,
        converted_from=arguments.id, verified=record.mode, bytes_read=record.bytes_read,
        timings_ms=metadata.timings_ms,
    )  # fmt: skip
    return 0


def _convert(run: ConvertRun, output: Output) -> tuple[Metadata, Verified]:
    """Metadata and verification record of the new snapshot."""
    metadata = run.open()
    output.hint = f"to continue: run the same command again with --id {run.snapshot_id}"
    source_id = run.source.snapshot_id
    output.event("begun", snapshot_id=run.snapshot_id, machine=run.machine, converted_from=source_id)
    try:
        if metadata is None:
            assert run.work is not None
            output.event("planned", **{**fields.write(run.work), "parts": len(run.planned)})
            with output.progress("converting", run.work.stored_bytes) as progress, timed(run.timings_ms, "convert"):
                run.session.on_progress = lambda counters: progress.bytes(
                    counters["checked_bytes"], counters["coded_bytes"]
                )
                all_parts(run.convert_part, run.planned)
            metadata = run.write_metadata()
        record = _read_back(VerifyRun(run.store, run.session, metadata), output)
    except (Corrupt, NotFound):
        # The same would come of it again, and a record left behind would keep the parts of the source.
        run.remove_pending()
        output.hint = f"snapshot {source_id} is as it was" + (
            f"; {run.snapshot_id} is not to be trusted: delete it" if metadata is not None else ""
        )
        raise
    run.remove_pending()
    return metadata, record
