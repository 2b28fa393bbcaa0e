"""A snapshot cut off at any moment: nothing is committed, and the next run sends only what is missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.servers.s3_server import S3Server
from poorwill.control.records.pending import PendingRecord
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import EngineLost, PoorwillError, Refused, StoreUnavailable
from poorwill.snapshot import ids, keys
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from poorwill.store.s3.store import S3Store
from tests.support.engines import ThreadHost, WatchedHost
from tests.support.hooked_store import hooked
from tests.support.program import poorwill
from tests.support.runs import MACHINE, order, part_objects, restore, take
from tests.support.s3_connection import connect
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, aged, make_large

pytestmark = pytest.mark.long

CHUNKS = 3
INDEX_BYTES_MAX = 1000
# A control side that ends itself, as SIGKILL would end it, at the n-th call of a method of the store.
KILLED = """
import os, signal, sys
from pathlib import Path
from poorwill.remote.local_host import LocalHost
from poorwill.store.local import LocalStore
from tests.support.hooked_store import hooked
from tests.support.runs import take
root, snapshot_id, side, method, call = Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
def end(key, count):
    if count == call:
        os.kill(os.getpid(), signal.SIGKILL)
take(hooked(LocalStore(root / "store"), **{side: {method: end}}), root / "w", snapshot_id, host=LocalHost())
"""


def committed(store: Store) -> list[str]:
    return [found.key for found in store.list(keys.SNAPSHOTS)]


def stopping(store: Store, call: int) -> Store:
    """A store that ends the run when its n-th part is complete in all but name."""

    def stop(key: str, count: int) -> None:
        if count == call:
            raise StoreUnavailable("stopped")

    return hooked(store, before={"complete_upload": stop})


def check_continued(store: Store, workspace: Path, snapshot_id: str, back: Path) -> None:
    """Continue a run that was cut off: finished parts stay the objects they are, and the end is the same."""
    before = part_objects(store)
    taken = take(store, workspace, snapshot_id)
    after = part_objects(store)
    assert {key: after.get(key) for key in before} == before
    assert set(taken.own_parts) >= set(before)
    kept = sum(size - INDEX_BYTES_MAX for size, _ in before.values())
    assert taken.counters["read_bytes"] <= taken.totals["raw_bytes"] - kept
    assert list(store.list(keys.PENDING)) == []
    restore(store, snapshot_id, back)
    assert differences(workspace, back) == []


@pytest.mark.parametrize(
    ("side", "method", "call"),
    [
        ("before", "put", 1),  # nothing is there
        ("after", "put", 1),  # the pending record is
        ("before", "complete_upload", 2),  # a part, and bytes of others
        ("after", "complete_upload", CHUNKS),
        ("after", "put", 3),  # the manifest, no metadata
    ],
)
def test_sigkill_of_the_control_side(tmp_path: Path, side: str, method: str, call: int) -> None:
    """No metadata object; the engine ends too; continuing keeps every finished part."""
    workspace, snapshot_id = aged(make_large(tmp_path / "w", CHUNKS)), ids.new_snapshot_id()
    command = [sys.executable, "-c", KILLED, str(tmp_path), snapshot_id, side, method, str(call)]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=60)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    store = LocalStore(tmp_path / "store")
    assert committed(store) == []
    check_continued(store, workspace, snapshot_id, tmp_path / "back")


@pytest.mark.parametrize(
    ("method", "call"), [("create_upload", 1), ("complete_upload", 2), ("complete_upload", CHUNKS)]
)
def test_sigkill_of_the_engine(local_store: LocalStore, tmp_path: Path, method: str, call: int) -> None:
    """The run ends with EngineLost at once; the next one continues."""
    workspace, snapshot_id = aged(make_large(tmp_path / "w", CHUNKS)), ids.new_snapshot_id()
    host = WatchedHost()

    def kill(key: str, count: int) -> None:
        if count == call:
            host.kill()

    with pytest.raises(EngineLost, match="engine on this machine has ended"):
        take(hooked(local_store, after={method: kill}), workspace, snapshot_id, host=host)
    assert committed(local_store) == []
    check_continued(local_store, workspace, snapshot_id, tmp_path / "back")


@pytest.mark.parametrize("call", [1, 2])
def test_sigkill_of_the_store(tmp_path: Path, call: int) -> None:
    """The server dies between two parts, comes back without its unfinished uploads, and the run continues."""
    workspace, snapshot_id = aged(make_large(tmp_path / "w", CHUNKS)), ids.new_snapshot_id()
    with S3Server(tmp_path / "s3") as server:

        def kill(key: str, count: int) -> None:
            if count == call:
                server.kill()

        store = connect(server, "p")
        with pytest.raises(PoorwillError) as caught:
            take(hooked(store, before={"complete_upload": kill}), workspace, snapshot_id)
        assert isinstance(caught.value, StoreUnavailable), caught.value
        server.start()
        assert committed(store) == []
        check_continued(store, workspace, snapshot_id, tmp_path / "back")


def test_the_program_is_killed_and_run_again(tmp_path: Path) -> None:
    """By the installed program, until its record is gone; a run cut off after the commit is finished by the next."""
    workspace, store = aged(make_large(tmp_path / "w", 1)), LocalStore(tmp_path / "store")
    given = ("--store", store.url, "--machine", MACHINE, "--json")
    first = poorwill("snapshot", workspace, *given).done
    again = poorwill("snapshot", workspace, *given, "--id", first["snapshot_id"])
    assert again.code == 6 and "exists already" in again.events[-1]["message"]
    cut_off = PendingRecord(store, MACHINE, first["snapshot_id"])
    cut_off.write(workspace=str(workspace), instance="", parent=None, borrows=[])
    finished = poorwill("snapshot", workspace, *given, "--id", first["snapshot_id"])
    assert finished.code == 0 and finished.done["totals"] == first["totals"]
    assert list(store.list(keys.PENDING)) == []


def test_the_workspace_changed_between_the_runs(local_store: LocalStore, tmp_path: Path) -> None:
    """Parts of before are kept as far as they still are what the workspace holds."""
    workspace, snapshot_id = aged(make_large(tmp_path / "w", CHUNKS)), ids.new_snapshot_id()
    with pytest.raises(StoreUnavailable):
        take(stopping(local_store, CHUNKS), workspace, snapshot_id)
    (workspace / "3.txt").write_text("changed")
    (workspace / "large.bin").rename(workspace / "renamed.bin")
    taken = take(local_store, aged(workspace), snapshot_id)
    assert taken.totals["sent_raw_bytes"] < (CHUNKS + 2) * CHUNK_BYTES
    restore(local_store, snapshot_id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


@pytest.mark.parametrize("ending", [b"", b"2"], ids=["cut short", "of a later version"])
def test_a_part_that_cannot_be_read_is_not_adopted(local_store: LocalStore, tmp_path: Path, ending: bytes) -> None:
    """A finished part whose index does not fit, or is of a later version, is packed again."""
    workspace, snapshot_id = aged(make_large(tmp_path / "w", 2)), ids.new_snapshot_id()
    with pytest.raises(StoreUnavailable):
        take(stopping(local_store, 2), workspace, snapshot_id)
    for key in part_objects(local_store):
        local_store.put(key, local_store.get(key)[: -len(ending) or -3] + ending)
    take(local_store, workspace, snapshot_id)
    restore(local_store, snapshot_id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_the_same_id_for_another_workspace(local_store: LocalStore, tmp_path: Path) -> None:
    """An id that was begun for one folder is not continued with another."""
    snapshot_id = ids.new_snapshot_id()
    with pytest.raises(StoreUnavailable):
        take(stopping(local_store, 1), make_large(tmp_path / "w", 1), snapshot_id)
    with pytest.raises(Refused, match=f"begun for {tmp_path / 'w'}, not for {tmp_path / 'other'}"):
        take(local_store, make_large(tmp_path / "other", 1), snapshot_id)


def test_a_part_that_fails_is_tried_alone(s3_store: S3Store, tmp_path: Path) -> None:
    """The same session packs one part again; the others are not touched, no upload is left behind."""
    workspace = aged(make_large(tmp_path / "w", 3))
    failed: list[str] = []

    def fail_once(key: str, count: int) -> None:
        if count == 2:
            failed.append(key)
            raise StoreUnavailable("try again")

    store = hooked(s3_store, before={"complete_upload": fail_once})
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(store, session, order(workspace))
        run.open()
        run.scan()
        for number in run.planned:
            try:
                run.pack_part(number)
            except StoreUnavailable:
                run.pack_part(number, attempt=2)
        run.settle()
        metadata = run.write_metadata()
    finally:
        session.close()
    assert len(failed) == 1
    restore(s3_store, metadata.snapshot_id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []
    assert list(s3_store.list_uploads("")) == []
