"""What is left behind by whoever was killed is listed and removed; once every snapshot is deleted a store is empty."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from poorwill.control.records import clock, trash
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import deletion, purging, retention
from poorwill.control.snapshot.lending import doubt_about_backup
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import Corrupt, Refused, StoreUnavailable
from poorwill.snapshot import keys
from poorwill.snapshot.retention_policy import Policy
from poorwill.store.base import Store
from poorwill.store.directory_tree import DirectoryTree
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.program import poorwill
from tests.support.runs import MACHINE, at_once, order, part_objects, restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import aged, noise

ONE, TWO, THREE = (f"20260101T000000Z-0000000{number}" for number in (1, 2, 3))
GRACE_S = 3600.0


@pytest.fixture(params=["local_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Store:
    """On a directory, and on rclone's S3 server."""
    found: Store = request.getfixturevalue(request.param)
    return found


def keys_in(store: Store) -> list[str]:
    return [found.key for found in store.list("")]


def write(workspace: Path, size: int, seed: int) -> Path:
    workspace.mkdir(exist_ok=True)
    for number in range(4):
        (workspace / f"{number}").write_bytes(noise(size, seed + number))
    return aged(workspace)


def cut_off(store: Store, workspace: Path, snapshot_id: str) -> None:
    """A try that had packed everything, and committed nothing."""
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(store, session, order(workspace, snapshot_id, parts=4))
        run.open()
        session.hello(str(workspace))
        run.scan()
        at_once(run.pack_part, list(run.planned))
    finally:
        session.close()


def test_parts_of_a_try_that_was_cut_off(store: Store, tmp_path: Path) -> None:
    """The workspace changed before it was continued, so the snapshot uses others: retention names the old ones, and
    frees them at once; the snapshot stays whole."""
    workspace = write(tmp_path / "w", 300_000, 1)
    cut_off(store, workspace, ONE)
    left_bytes = sum(size for size, _ in part_objects(store).values())
    assert retention.plan(Holdings(store), Policy(last=1), GRACE_S).unused == {}  # its run has not ended
    taken = take(store, write(workspace, 1000, 9), ONE, parts=4)
    holdings = Holdings(store)
    plan = retention.plan(holdings, Policy(last=1), GRACE_S)
    assert plan.unused == {(MACHINE, ONE): left_bytes} and plan.freed_now_bytes == left_bytes
    done = retention.apply(holdings, plan.going, GRACE_S)
    assert done.freed_bytes == left_bytes and done.unused == plan.unused
    assert set(part_objects(store)) == set(taken.own_parts)
    assert retention.plan(Holdings(store), Policy(last=1), GRACE_S).unused == {}
    verify(store, ONE, "full")
    restore(store, ONE, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_what_the_program_says_of_them(tmp_path: Path) -> None:
    """A dry run lists them, and removes nothing; the run frees them."""
    store = LocalStore(tmp_path / "store")
    workspace = write(tmp_path / "w", 300_000, 1)
    cut_off(store, workspace, ONE)
    take(store, write(workspace, 1000, 9), ONE, parts=4)
    before = keys_in(store)
    dry = poorwill("retention", "--store", store.url, "--keep-last", "1", "--dry-run")
    assert "in parts of tries that were cut off" in dry.out and ONE in dry.out and keys_in(store) == before
    done = poorwill("retention", "--store", store.url, "--keep-last", "1", "--json").done
    assert done["unused_bytes"] == done["freed_bytes"] > 1_000_000
    assert len(keys_in(store)) == len(before) - 1


def test_a_run_that_never_ended_is_listed(tmp_path: Path) -> None:
    """Until it is ended or given up; with that the store is empty."""
    store = LocalStore(tmp_path / "store")
    cut_off(store, write(tmp_path / "w", 1000, 1), ONE)
    (line, _) = poorwill("ls", "--store", store.url).out.splitlines()
    assert line.split()[:4] == [ONE, MACHINE, "not", "ended:"] and line.endswith("delete it with --force")
    listed = poorwill("ls", "--store", store.url, "--json").events
    assert listed[0] == {"event": "unfinished", "machine": MACHINE, "snapshot_id": ONE}
    assert poorwill("delete", ONE, "--store", store.url, "--force").code == 0
    assert keys_in(store) == [] and "not ended" not in poorwill("ls", "--store", store.url).out


def test_parts_that_are_being_borrowed_stay(local_store: LocalStore, tmp_path: Path) -> None:
    """Whoever takes a snapshot may borrow from one that has such parts: none of it goes meanwhile."""
    workspace = write(tmp_path / "w", 300_000, 1)
    cut_off(local_store, workspace, ONE)
    take(local_store, write(workspace, 1000, 9), ONE, parts=4)
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(local_store, session, order(workspace, TWO), doubt=doubt_about_backup)
        run.open()
        before = part_objects(local_store)
        assert purging.purge(Holdings(local_store), GRACE_S).freed_bytes == 0 and part_objects(local_store) == before
        run.remove_pending()
    finally:
        session.close()
    assert purging.purge(Holdings(local_store), GRACE_S).freed_bytes > 0


@pytest.mark.parametrize("going", list(itertools.permutations((ONE, TWO, THREE))))
def test_nothing_is_left_once_all_are_deleted(local_store: LocalStore, tmp_path: Path, going: tuple[str, ...]) -> None:
    """In any order, though each borrows from those before it; and with what is left of killed processes."""
    _nothing_is_left(local_store, tmp_path, going)


def test_nothing_is_left_in_a_bucket(s3_store: Store, tmp_path: Path) -> None:
    """The oldest first, whose parts the others need until they go."""
    _nothing_is_left(s3_store, tmp_path, (ONE, TWO, THREE))


def _nothing_is_left(store: Store, tmp_path: Path, going: tuple[str, ...]) -> None:
    workspace, parent = write(tmp_path / "w", 1000, 1), None
    for number, snapshot_id in enumerate((ONE, TWO, THREE)):
        (workspace / f"new-{number}").write_bytes(noise(200_000, 50 + number))
        parent = take(store, aged(workspace), snapshot_id, parent=parent).id
        verify(store, snapshot_id)
    cut_off(store, write(workspace, 300_000, 20), "20260101T000000Z-00000004")
    store.put(keys.clock("0123456789abcdef"), b"\n")
    for place in (keys.manifest, keys.metadata):
        store.create_upload(place(MACHINE, ONE))
    for snapshot_id in going:
        deletion.delete(store, snapshot_id)
    deletion.delete(store, "20260101T000000Z-00000004", force=True)
    assert keys_in(store) == [] and list(store.list_uploads("")) == []


def test_uploads_of_documents_without_an_owner_are_ended(local_store: LocalStore, tmp_path: Path) -> None:
    """Those of a run that has not ended stay, and those that are no snapshot's."""
    workspace = write(tmp_path / "w", 1000, 1)
    take(local_store, workspace, ONE)
    cut_off(local_store, workspace, TWO)
    for key in (keys.manifest(MACHINE, ONE), keys.metadata(MACHINE, ONE), keys.manifest(MACHINE, TWO), "videos/x"):
        local_store.create_upload(key)
    assert purging.purge(Holdings(local_store), GRACE_S).uploads_aborted == 2
    assert {key for key, _ in local_store.list_uploads("")} == {keys.manifest(MACHINE, TWO), "videos/x"}


def in_child(work: Callable[[], object]) -> None:
    """Run it in a process that is then killed."""
    pid = os.fork()
    if pid == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_half_written_puts_go_once_their_writer_is_gone(tmp_path: Path) -> None:
    """A file on its way to its name is locked: the next process that writes removes it when its writer was killed,
    however young it is, and never while that lives, however old."""
    store = LocalStore(tmp_path / "store")
    store.put("a", b"a")
    puts = tmp_path / "store" / ".uploads" / "puts"
    tree = DirectoryTree(tmp_path / "store")
    in_child(lambda: os.write(tree.create(str(puts / "killed")), b"half"))
    living = tree.create(str(puts / "living"))
    os.utime(puts / "living", (0, 0))
    assert (puts / "killed").read_bytes() == b"half"
    LocalStore(tmp_path / "store").put("b", b"b")
    assert [path.name for path in puts.iterdir()] == ["living"]
    os.close(living)
    LocalStore(tmp_path / "store").put("c", b"c")
    assert list(puts.iterdir()) == [] and keys_in(store) == ["a", "b", "c"]


def test_the_time_is_told_while_somebody_clears_up(local_store: LocalStore) -> None:
    """The object that was to tell it goes, and another is written; a store in which all vanishes is out of reach."""

    def remove(key: str, count: int, times: int = 2) -> None:
        if count <= times:
            local_store.delete(key)

    found_s = clock.store_time_s(hooked(local_store, after={"put": remove}))
    local_store.put("now", b"")
    assert abs(local_store.head("now").modified_s - found_s) < 60
    with pytest.raises(StoreUnavailable, match="vanish"):
        clock.store_time_s(hooked(local_store, after={"put": lambda key, count: remove(key, count, 100)}))
    assert keys_in(local_store) == ["now"]


@pytest.mark.parametrize("damaged", ["metadata", "trash record"])
def test_a_snapshot_whose_documents_are_damaged(local_store: LocalStore, tmp_path: Path, damaged: str) -> None:
    """It would keep all others from being removed; with force it goes, and the others are as before."""
    workspace = write(tmp_path / "w", 300_000, 1)
    first = take(local_store, workspace, ONE)
    take(local_store, workspace, TWO, parent=ONE)
    if damaged == "trash record":
        trash.move(local_store, (MACHINE, ONE))
    place = keys.metadata if damaged == "metadata" else keys.trash
    local_store.put(place(MACHINE, ONE), b"{}")
    with pytest.raises((Corrupt, Refused), match=r"cannot be read|delete it with force"):
        deletion.delete(local_store, ONE)
    assert deletion.delete(local_store, ONE, force=True)["kept_parts"] == first.own_parts
    verify(local_store, TWO, "full")
    deletion.delete(local_store, TWO)
    assert keys_in(local_store) == []
