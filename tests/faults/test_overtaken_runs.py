"""A run that was stopped, and whose snapshot another one went on with, changes nothing of it when it is let go."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.servers.s3_server import S3Server
from poorwill.control.records import catalog
from poorwill.control.records.pending import PendingRecord
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.errors import Refused, UploadLost
from poorwill.snapshot import ids, keys
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.runs import at_once, order, restore, take, verify
from tests.support.s3_connection import connect
from tests.support.trees import differences
from tests.support.workspaces import aged, make_large

WRITES = ("put", "create_upload", "complete_upload", "abort_upload", "delete")
_prefixes = itertools.count()


@pytest.fixture(params=["directory", "S3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """rclone's S3 server takes no notice of If-None-Match."""
    if request.param == "directory":
        yield LocalStore(tmp_path / "store")
        return
    server: S3Server = request.getfixturevalue("s3_server")
    yield connect(server, f"overtaken-{next(_prefixes)}")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return aged(make_large(tmp_path / "w", 2))


def state_of(store: Store, snapshot_id: str) -> dict[str, bytes]:
    """All that the snapshot consists of; not the clock objects and records of others."""
    return {found.key: store.get(found.key, bytes_max=1 << 26) for found in store.list("") if snapshot_id in found.key}


class Late:
    """A run that stands before its n-th write to the store, while another one takes the same snapshot to its end."""

    def __init__(self, store: Store, snapshot_id: str, workspace: Path, stops_at: int) -> None:
        self.inner, self.snapshot_id, self.workspace = store, snapshot_id, workspace
        self.stops_at, self.writes = stops_at, 0
        self.committed: dict[str, bytes] | None = None
        store = hooked(store, before=dict.fromkeys(WRITES, self._before))
        self.host = ThreadHost()
        self.session = EngineSession(self.host)
        self.run = SnapshotRun(store, self.session, order(workspace, snapshot_id, parts=2))

    def _before(self, key: str, count: int) -> None:
        self.writes += 1
        if self.writes == self.stops_at:
            (self.workspace / "since.txt").write_text("hours of work")
            self.host.leave_workspace()
            self._go_on()
            verify(self.inner, self.snapshot_id)
            self.committed = state_of(self.inner, self.snapshot_id)

    def _go_on(self) -> None:
        owner = self.run.order.machine, self.snapshot_id
        if not catalog.exists(self.inner, keys.metadata(*owner)):
            take(self.inner, self.workspace, self.snapshot_id, parts=2)
            return
        pending = PendingRecord(self.inner, *owner)
        pending.take_over_existing()
        pending.remove()

    def go(self) -> None:
        if self.run.open() is not None:
            self.run.remove_pending()
            return
        self.session.hello(str(self.workspace))
        self.run.scan()
        while self.run.planned:
            at_once(self.run.pack_part, list(self.run.planned))
            self.run.settle()
        self.run.write_metadata()
        self.run.remove_pending()


@pytest.mark.parametrize("stops_at", range(1, 10))
def test_a_run_that_was_overtaken_before_a_write(store: Store, workspace: Path, tmp_path: Path, stops_at: int) -> None:
    """Whichever write it stood before: what the other one committed stays byte for byte, and comes back."""
    late = Late(store, ids.new_snapshot_id(), workspace, stops_at)
    try:
        late.go()
    except Refused as error:
        assert "overtaken" in error.message or "committed by another run" in error.message, error.message
    finally:
        late.session.close()
    if late.committed is None:
        pytest.skip(f"it wrote only {late.writes} times")
    assert state_of(store, late.snapshot_id) == late.committed
    restore(store, late.snapshot_id, tmp_path / "back")
    since = [] if "since.txt" in os.listdir(tmp_path / "back") else ["since.txt"]
    assert differences(workspace, tmp_path / "back", without=since)[len(since) :] == []


def test_a_run_that_was_overtaken_writes_no_proof(store: Store, workspace: Path) -> None:
    """It read the parts before; by now the other one knows better, and has written that."""
    snapshot_id = ids.new_snapshot_id()
    taken = take(store, workspace, snapshot_id, parts=2)
    mine = PendingRecord(store, taken.metadata.machine, snapshot_id)
    mine.write(workspace=str(workspace), instance="i-1", parent=None, borrows=[])
    session = EngineSession(ThreadHost())
    try:
        late = VerifyRun(store, session, taken.metadata, fence=mine.check)
        late.open()
        at_once(late.verify_part, list(late.parts))
        PendingRecord(store, taken.metadata.machine, snapshot_id).take_over_existing()
        before = state_of(store, snapshot_id)
        with pytest.raises(Refused, match="overtaken"):
            late.record()
    finally:
        session.close()
    assert state_of(store, snapshot_id) == before


def test_of_runs_that_take_over_from_each_other_one_may_write(store: Store) -> None:
    first, second = (PendingRecord(store, "m1", "20260101T000000Z-00000001") for _ in range(2))
    say: dict[str, Any] = {"workspace": "/w", "instance": "i-1", "parent": None, "borrows": []}
    first.write(**say)
    first.check()
    second.write(**say)
    second.check()
    attempts: list[Callable[[], object]] = [first.check, lambda: first.write(**say)]
    for attempt in attempts:
        with pytest.raises(Refused, match="this one was overtaken, and writes and destroys nothing more"):
            attempt()
    assert not first.remove() and second.remove()
    with pytest.raises(Refused, match="has given it up"):
        second.check()


def test_an_upload_that_was_begun_before_the_take_over_never_appears(store: Store) -> None:
    """Stopped between its look at the record and the end of its upload, which then has no effect."""
    first, second = (PendingRecord(store, "m1", "20260101T000000Z-00000001") for _ in range(2))
    say: dict[str, Any] = {"workspace": "/w", "instance": "i-1", "parent": None, "borrows": []}
    first.write(**say)

    def overtaken() -> None:
        first.check()
        second.write(**say)

    key = keys.metadata("m1", "20260101T000000Z-00000001")
    with pytest.raises(UploadLost):
        store.put_fenced(key, b"late", overtaken)
    assert [found.key for found in store.list(keys.SNAPSHOTS)] == []
