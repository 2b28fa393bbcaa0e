"""A machine may be destroyed only after its snapshot was read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poorwill.control.machine.destruction import changes, check_destroyable, check_unchanged
from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import Refused
from poorwill.snapshot import documents, keys
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.runs import MACHINE, Taken, order, restore, take, verify
from tests.support.workspaces import aged, make_large

INSTANCE = "i-1"


@pytest.fixture
def taken(local_store: LocalStore, tmp_path: Path) -> Taken:
    return take(local_store, aged(make_large(tmp_path / "w", 1)))


def change_record(store: LocalStore, taken: Taken, **fields: Any) -> None:
    key = keys.verified(MACHINE, taken.id)
    record = documents.unseal(store.get(key), "verified", key)
    store.put(key, documents.seal({**record, **fields}))


def path_of(store: LocalStore, key: str) -> Path:
    return Path(store.url.removeprefix("file://")) / key


@pytest.mark.parametrize("mode", ["stored", "full"])
def test_a_verified_snapshot_allows_the_destruction(local_store: LocalStore, taken: Taken, mode: str) -> None:
    """The good case, so that the refusals below mean something."""
    verify(local_store, taken.id, mode)
    assert check_destroyable(local_store, MACHINE, taken.id, INSTANCE).snapshot_id == taken.id


def test_without_a_record_or_a_snapshot_it_is_refused(local_store: LocalStore, taken: Taken) -> None:
    """Never verified, or never committed; the message says what goes on billing."""
    with pytest.raises(Refused, match=r"is not committed and verified.*goes on billing"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)
    verify(local_store, taken.id)
    local_store.delete(keys.metadata(MACHINE, taken.id))
    with pytest.raises(Refused, match=r"is not committed and verified.*goes on billing"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def test_a_verified_sample_is_not_enough(local_store: LocalStore, taken: Taken) -> None:
    """A few chunks prove nothing about the others."""
    verify(local_store, taken.id, "sample")
    with pytest.raises(Refused, match="verified by 'sample', which is not enough"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def test_a_snapshot_of_another_instance_is_refused(local_store: LocalStore, taken: Taken) -> None:
    """It does not allow this instance to be destroyed."""
    verify(local_store, taken.id)
    with pytest.raises(Refused, match="i-2 of machine m1 was not destroyed"):
        check_destroyable(local_store, MACHINE, taken.id, "i-2")


@pytest.mark.parametrize(
    "fields",
    [
        {"instance": "i-2"},
        {"snapshot_id": "20260101T000000Z-00000000"},
        {"machine": "m2"},
        {"manifest": {"key": "manifests/m1/x", "bytes": 1, "blake3": "0" * 64}},
        {"mode": "none"},
        {"parts": []},
    ],
)
def test_a_verification_record_of_something_else_is_refused(
    local_store: LocalStore, taken: Taken, fields: dict[str, Any]
) -> None:
    """The record must be of this snapshot, instance and manifest, and have read every part."""
    verify(local_store, taken.id)
    change_record(local_store, taken, **fields)
    with pytest.raises(Refused, match="goes on billing"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def test_a_verification_record_of_an_earlier_manifest_is_refused(local_store: LocalStore, taken: Taken) -> None:
    """The same key is not enough: the hash names what was read back."""
    record = verify(local_store, taken.id)
    change_record(local_store, taken, manifest={**record.manifest.document(), "blake3": "0" * 64})
    with pytest.raises(Refused, match="the verification record of"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def test_a_part_that_was_listed_but_not_read(local_store: LocalStore, taken: Taken) -> None:
    """Naming a part in the record is not reading it."""
    record = verify(local_store, taken.id)
    change_record(local_store, taken, parts=[{**part.document(), "read": False} for part in record.parts])
    with pytest.raises(Refused, match=r"parts of .* were never read back"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flipped(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        ("part", Path.unlink),
        ("part", _truncated),
        ("manifest", Path.unlink),
        ("manifest", _flipped),
        ("metadata", _truncated),
        ("record", _flipped),
    ],
)
def test_damage_after_the_verification(
    local_store: LocalStore, taken: Taken, what: str, damage: Callable[[Path], None]
) -> None:
    """The store is asked again: a missing or another object keeps the machine."""
    verify(local_store, taken.id)
    key = {
        "part": taken.own_parts[0],
        "manifest": keys.manifest(MACHINE, taken.id),
        "metadata": keys.metadata(MACHINE, taken.id),
        "record": keys.verified(MACHINE, taken.id),
    }[what]
    path = path_of(local_store, key)
    if what in ("metadata", "record"):
        path.write_bytes(path.read_bytes().rstrip())  # so that the last byte is not a mere line end
    damage(path)
    with pytest.raises(Refused, match="goes on billing"):
        check_destroyable(local_store, MACHINE, taken.id, INSTANCE)


def test_a_workspace_that_changed_since(local_store: LocalStore, taken: Taken, tmp_path: Path) -> None:
    """New, changed and removed files are named and keep the machine; files that were left out do not count."""
    workspace = tmp_path / "w"
    session = EngineSession(ThreadHost())
    try:
        given = (local_store, session, order(workspace, taken.id), taken.metadata)
        check_unchanged(*given)
        (workspace / "new").write_text("new")
        (workspace / "3.txt").unlink()
        (workspace / "4.txt").write_text("changed")
        assert changes(*given).paths == ("3.txt", "4.txt", "new")
        with pytest.raises(Refused, match=r"\(3.txt, 4.txt, new\): the machine was not destroyed"):
            check_unchanged(*given)
    finally:
        session.close()


def test_a_restored_workspace_is_unchanged_too(local_store: LocalStore, taken: Taken, tmp_path: Path) -> None:
    """A snapshot taken right after a wake compares by what was restored."""
    restore(local_store, taken.id, tmp_path / "back")
    again = take(local_store, tmp_path / "back", parent=taken.id)
    session = EngineSession(ThreadHost())
    try:
        check_unchanged(local_store, session, order(tmp_path / "back", again.id), again.metadata)
    finally:
        session.close()
