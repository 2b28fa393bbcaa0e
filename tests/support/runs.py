"""Whole snapshots, restores and verifications in a few words, through the control side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poorwill.control.records import catalog
from poorwill.control.records.verified import Verified
from poorwill.control.snapshot.convert_run import ConvertRun
from poorwill.control.snapshot.lending import doubt_about, doubt_about_backup
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.remote.base import Host
from poorwill.snapshot import fields as records
from poorwill.snapshot import ids
from poorwill.snapshot.choices import VerifyMode
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import RestoreOrder, SnapshotOrder
from poorwill.store.base import Store
from tests.support.engines import ThreadHost

MACHINE = "m1"


@dataclass
class Taken:
    """A snapshot that was taken, and what the engine had counted by then."""

    metadata: Metadata
    counters: dict[str, int]
    run: SnapshotRun

    @property
    def id(self) -> str:
        return self.metadata.snapshot_id

    @property
    def totals(self) -> dict[str, int]:
        return self.metadata.totals.document()

    @property
    def own_parts(self) -> list[str]:
        return [part.key for part in self.metadata.parts if not part.borrowed]


def order(workspace: Path, snapshot_id: str | None = None, **fields: Any) -> SnapshotOrder:
    given = {"machine": MACHINE, "instance": "i-1", **fields}
    return SnapshotOrder(snapshot_id=snapshot_id or ids.new_snapshot_id(), workspace=str(workspace), **given)


def take(
    store: Store,
    workspace: Path,
    snapshot_id: str | None = None,
    *,
    host: Host | None = None,
    at_settle: Callable[[], None] = lambda: None,
    strict: bool = False,
    **fields: Any,
) -> Taken:
    """A snapshot from the first step to the last. at_settle is called before each look at what has changed. strict:
    whether only a parent that was verified lends."""
    session = EngineSession(host or ThreadHost())
    try:
        run = SnapshotRun(
            store, session, order(workspace, snapshot_id, **fields), doubt=doubt_about if strict else doubt_about_backup
        )
        assert run.open() is None
        session.hello(str(workspace))
        run.scan()
        while run.planned:
            at_once(run.pack_part, list(run.planned))
            at_settle()
            run.settle()
        metadata = run.write_metadata()
        run.remove_pending()
        return Taken(metadata, dict(session.counters), run)
    finally:
        session.close()


@dataclass
class Converted:
    """A snapshot made from another one, and what the engine had counted by then."""

    metadata: Metadata
    counters: dict[str, int]
    run: ConvertRun

    @property
    def id(self) -> str:
        return self.metadata.snapshot_id


@dataclass
class Restored:
    result: dict[str, Any]
    counters: dict[str, int]
    resumed: bool
    parts: list[int] = field(default_factory=list)


def restore(
    store: Store,
    snapshot_id: str,
    workspace: Path,
    *,
    host: Host | None = None,
    facts: dict[str, Any] | None = None,
    **fields: Any,
) -> Restored:
    """A restore from the first step to the last. facts: what the machine is taken for, instead of asking the engine."""
    session = EngineSession(host or ThreadHost())
    session.facts = MachineFacts(**facts) if facts else None
    try:
        order = RestoreOrder(str(workspace), **fields)
        run = RestoreRun(store, session, catalog.find(store, snapshot_id), order)
        run.open()
        at_once(run.restore_part, list(run.parts))
        return Restored(records.write(run.finish()), dict(session.counters), run.resumed, list(run.parts))
    finally:
        session.close()


def verify(store: Store, snapshot_id: str, mode: VerifyMode = "stored", *, host: Host | None = None) -> Verified:
    session = EngineSession(host or ThreadHost())
    try:
        return VerifyRun(store, session, catalog.find(store, snapshot_id), mode=mode).run_all()
    finally:
        session.close()


def convert(store: Store, snapshot_id: str, new_id: str | None = None, *, host: Host) -> Converted:
    """A conversion from the first step to the last, but for the proof."""
    session = EngineSession(host)
    try:
        session.hello("/")
        run = ConvertRun(store, session, catalog.find(store, snapshot_id), new_id or ids.id_behind(snapshot_id))
        assert run.open() is None
        at_once(run.convert_part, list(run.planned))
        metadata = run.write_metadata()
        run.remove_pending()
        return Converted(metadata, dict(session.counters), run)
    finally:
        session.close()


def at_once(step: Callable[[int], Any], numbers: list[int]) -> None:
    """step(number) for all; the first failure is raised without waiting for the others."""
    threads = ThreadPoolExecutor(32)
    futures = [threads.submit(step, number) for number in numbers]
    try:
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def part_objects(store: Store) -> dict[str, tuple[int, float]]:
    """Key -> (size, time) of every part in the store."""
    return {found.key: (found.size, found.modified_s) for found in store.list("parts/")}
