"""The commands of the program. Each returns its exit code and raises PoorwillError."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import Any

from poorwill.cli import hosts
from poorwill.cli.output import Output, human
from poorwill.control.records import catalog
from poorwill.control.records.verified import Verified
from poorwill.control.snapshot.convert_run import ConvertRun, is_portable
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.store_reach import check_reachable
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.errors import Corrupt, EngineLost, NotFound, PermanentError, Refused, UsageError
from poorwill.remote.base import Host
from poorwill.retry import Backoff, retry
from poorwill.snapshot import fields, ids, limits
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import RestoreOrder, SnapshotOrder
from poorwill.store.address import open_store

LEFT_OUT = 3
BACKOFF = Backoff(first_s=0.5, attempts_max=3, jitter=False)


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
    )
    with closing(EngineSession(host)) as session:
        store = open_store(arguments.store)
        check_reachable(store, host)
        run = SnapshotRun(store, session, order)
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
        machine=machine, parent=metadata.parent, left_out_count=metadata.left_out_count,
        timings_ms=metadata.timings_ms, coding=metadata.coding.document() if metadata.coding else None,
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
    output.event("scanned", entries=scanned.entries, raw_bytes=scanned.raw_bytes, parts=len(run.planned))
    total = scanned.pack_bytes
    while run.planned:
        with output.progress("packing", total) as progress, _timed(run.timings_ms, "pack"):
            run.session.on_progress = lambda counters: progress.bytes(counters["read_bytes"], counters["coded_bytes"])
            _all(run.pack_part, run.planned)
        run.settle()
        total = sum(run.planned.values()) + run.session.counters.get("read_bytes", 0)
    metadata = run.write_metadata()
    run.remove_pending()
    return metadata


@contextmanager
def _timed(timings_ms: dict[str, int], stage: str) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    timings_ms[stage] = timings_ms.get(stage, 0) + round((time.monotonic() - began_s) * 1000)


def _all(step: Callable[[int], Any], numbers: Iterable[int]) -> None:
    """step(number) for all at once; the first error ends the command, so the others are not waited for."""
    todo = list(numbers)
    threads = ThreadPoolExecutor(max(1, min(len(todo), limits.PARTS)), thread_name_prefix="part")
    futures = [threads.submit(_with_retries, step, number) for number in todo]
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        if future.done():
            future.result()
    threads.shutdown(wait=False)


def _with_retries(step: Callable[[int], Any], number: int) -> Any:
    """A lost engine has lost what it knew of the parts: the command ends then."""
    return retry(lambda: step(number), BACKOFF.pauses(), when=lambda error: not isinstance(error, EngineLost))


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
        with output.progress("restoring", run.raw_bytes) as progress, _timed(timings_ms, "restore"):
            session.on_progress = lambda counters: progress.bytes(
                counters["written_bytes"] + counters["kept_bytes"], counters["fetched_bytes"]
            )
            _all(run.restore_part, run.parts)
        result = run.finish()
    output.left_out([fields.write(left) for left in result.left_out], result.left_out_count)
    for warning in result.warnings if not arguments.json else []:
        print(f"poorwill: {warning}", file=sys.stderr)
    spared = {"kept_bytes": "stood there", "cached_bytes": "came from the cache"}
    origins = {name: getattr(result, name) for name in ("kept_bytes", "cached_bytes", "fetched_bytes")}
    notes = [f"{human(origins[name])} {what}" for name, what in spared.items() if origins[name]]
    what = f"snapshot {metadata.snapshot_id} restored to {order.workspace}"
    output.done(
        f"{what} ({', '.join(notes)})" if notes else what,
        {"raw_bytes": result.raw_bytes, "stored_bytes": metadata.totals.stored_bytes, **origins},
        snapshot_id=metadata.snapshot_id, restored=result.restored, left_out_count=result.left_out_count,
        warnings=result.warnings, timings_ms=timings_ms,
    )  # fmt: skip
    return LEFT_OUT if result.left_out_count else 0


def verify(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    with closing(EngineSession(host)) as session:
        store = open_store(arguments.store)
        metadata = catalog.find(store, arguments.id)
        session.hello("/")
        run = VerifyRun(store, session, metadata, mode="full" if arguments.full else "stored")
        record = _read_back(run, output)
    what = "decoded" if arguments.full else "read back"
    output.done(
        f"snapshot {arguments.id}: every byte {what} and equal to its hash",
        {"bytes_read": record.bytes_read, "parts": len(record.parts)},
        snapshot_id=arguments.id,
        mode=record.mode,
    )
    return 0


def _read_back(run: VerifyRun, output: Output) -> Verified:
    run.open()
    before = run.session.counters.get("checked_bytes", 0)
    with output.progress("verifying", sum(run.parts.values())) as progress:
        run.session.on_progress = lambda counters: progress.bytes(*[counters["checked_bytes"] - before] * 2)
        _all(run.verify_part, run.parts)
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
            with output.progress("converting", run.work.stored_bytes) as progress, _timed(run.timings_ms, "convert"):
                run.session.on_progress = lambda counters: progress.bytes(
                    counters["checked_bytes"], counters["coded_bytes"]
                )
                _all(run.convert_part, run.planned)
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
