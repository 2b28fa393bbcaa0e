"""Deleting a snapshot harms no other one, committed or being taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from poorwill.control.removal import deletion
from poorwill.control.snapshot.lending import doubt_about_backup
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.errors import NotFound, StoreUnavailable
from poorwill.snapshot import keys
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.runs import Taken, order, part_objects, restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import aged, make_large, noise


def two(store: LocalStore, workspace: Path) -> tuple[Taken, Taken]:
    """A snapshot, and one that borrows from it."""
    first = take(store, aged(make_large(workspace, 2)))
    (workspace / "new").write_bytes(noise(500_000, 80))
    return first, take(store, aged(workspace), parent=first.id)


def test_all_objects_of_a_snapshot_go(local_store: LocalStore, tmp_path: Path) -> None:
    """A snapshot from which nothing is borrowed leaves no object behind, and deleting it again is NotFound."""
    taken = take(local_store, make_large(tmp_path / "w", 1))
    verify(local_store, taken.id)
    result = deletion.delete(local_store, taken.id)
    assert result["freed_bytes"] == taken.totals["sent_bytes"] and result["kept_parts"] == []
    assert list(local_store.list("")) == []
    with pytest.raises(NotFound, match=taken.id):
        deletion.delete(local_store, taken.id)


def test_borrowed_parts_stay_as_long_as_they_are_borrowed(local_store: LocalStore, tmp_path: Path) -> None:
    """The parent goes first: its bytes stay for the child, and go with it."""
    first, second = two(local_store, tmp_path / "w")
    result = deletion.delete(local_store, first.id)
    assert result["freed_bytes"] == 0 and result["kept_parts"] == first.own_parts
    verify(local_store, second.id)
    restore(local_store, second.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []
    freed_bytes = first.totals["sent_bytes"] + second.totals["sent_bytes"]
    assert deletion.delete(local_store, second.id)["freed_bytes"] == freed_bytes
    assert list(local_store.list("")) == []


def test_the_child_goes_first(local_store: LocalStore, tmp_path: Path) -> None:
    """Only its own parts are removed."""
    first, second = two(local_store, tmp_path / "w")
    assert deletion.delete(local_store, second.id)["kept_parts"] == []
    assert set(part_objects(local_store)) == set(first.own_parts)
    verify(local_store, first.id)


def test_a_snapshot_being_taken_keeps_what_it_may_borrow(local_store: LocalStore, tmp_path: Path) -> None:
    """Its pending record is enough, before a single byte of it is there; afterwards it is whole."""
    workspace = aged(make_large(tmp_path / "w", 1))
    first = take(local_store, workspace)
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(local_store, session, order(workspace), doubt=doubt_about_backup)
        run.open()
        assert deletion.delete(local_store, first.id)["kept_parts"] == first.own_parts
        run.scan()
        assert run.planned == {}
        metadata = run.write_metadata()
    finally:
        session.close()
    restore(local_store, metadata.snapshot_id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_an_interrupted_deletion_can_be_repeated(local_store: LocalStore, tmp_path: Path) -> None:
    """At any of its writes: the snapshot exists whole or not at all, and deleting again ends it."""
    for call in range(1, 6):
        taken = take(local_store, make_large(tmp_path / f"w-{call}", 1))

        def stop(key: str, count: int, call: int = call) -> None:
            if count == call:
                raise StoreUnavailable("cut off")

        with pytest.raises(StoreUnavailable):
            deletion.delete(hooked(local_store, before={"delete": stop}), taken.id)
        if [found.key for found in local_store.list(keys.SNAPSHOTS)]:
            verify(local_store, taken.id, "full")
        deletion.delete(local_store, taken.id)
        assert list(local_store.list("")) == []


def test_objects_that_are_not_ours_are_left_alone(local_store: LocalStore, tmp_path: Path) -> None:
    """They are neither an error nor changed."""
    strays = ("snapshots/README", "snapshots/m1/notes.json", "parts/m1/x", "pending/stray", "trash/a/b/c", "notes")
    for key in strays:
        local_store.put(key, b"mine")
    taken = take(local_store, make_large(tmp_path / "w", 1))
    restore(local_store, taken.id, tmp_path / "back")
    deletion.delete(local_store, taken.id)
    assert {found.key for found in local_store.list("")} == set(strays)
