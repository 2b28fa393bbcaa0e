"""A bad parent costs time, never the snapshot: nothing is borrowed from one of which there is a doubt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from poorwill import defaults
from poorwill.control.machine.destruction import check_destroyable
from poorwill.control.records import catalog, verified
from poorwill.control.records.verified import FAILED
from poorwill.control.removal import deletion
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.errors import Corrupt, NotFound, Refused
from poorwill.snapshot import documents, keys
from poorwill.snapshot.choices import VerifyMode
from poorwill.store.local import LocalStore
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.runs import MACHINE, Taken, order, restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import aged, noise


@dataclass
class Lineage:
    """A snapshot, and one that borrows from it; both verified."""

    store: LocalStore
    workspace: Path
    grandparent: Taken
    parent: Taken
    back: Path

    def path(self, key: str) -> Path:
        return Path(self.store.url.removeprefix("file://")) / key

    def change(self, key: str, kind: str, **fields: object) -> None:
        """A document of the store with other fields, sealed again."""
        found = documents.unseal(self.store.get(key), kind, key)
        self.store.put(key, documents.seal({**found, **fields}))

    def rot(self, key: str) -> None:
        data = bytearray(self.path(key).read_bytes())
        data[1000] ^= 1
        self.path(key).write_bytes(data)

    def next(self, snapshot_id: str | None = None, **fields: object) -> Taken:
        """One more snapshot, as it is taken before a machine is destroyed, which this one then may be."""
        taken = take(self.store, self.workspace, snapshot_id, strict=True, **fields)
        read_back(self.store, taken.id)
        check_destroyable(self.store, MACHINE, taken.id, "i-1")
        shutil.rmtree(self.back, ignore_errors=True)
        restore(self.store, taken.id, self.back)
        assert differences(self.workspace, self.back) == []
        return taken


def read_back(store: LocalStore, snapshot_id: str, mode: VerifyMode = "stored") -> None:
    """As after a snapshot: what was borrowed and was read a short time ago is not read again."""
    session = EngineSession(ThreadHost())
    try:
        VerifyRun(store, session, catalog.find(store, snapshot_id), mode, all_parts=False).run_all()
    finally:
        session.close()


@pytest.fixture
def lineage(local_store: LocalStore, tmp_path: Path) -> Lineage:
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "old").write_bytes(noise(300_000, 1))
    first = take(local_store, aged(workspace))
    verify(local_store, first.id)
    (workspace / "new").write_bytes(noise(200_000, 2))
    second = take(local_store, aged(workspace), strict=True)
    verify(local_store, second.id)
    assert second.metadata.parent == first.id and sorted(second.metadata.lenders) == sorted([first.id, second.id])
    return Lineage(local_store, workspace, first, second, tmp_path / "back")


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def flipped(path: Path, at: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def of_later_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"poorwill-snapshot/", b"poorwill-snapshot/9"))


def without_index(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-96] + bytes(96))


def test_a_good_parent_lends(lineage: Lineage) -> None:
    """Nothing is sent, so that the refusals below mean something; parent 'none' has all of it packed, unasked why."""
    assert lineage.next().totals["sent_bytes"] == 0
    full = lineage.next(parent=defaults.PARENT_NONE)
    assert full.metadata.parent is None and full.run.packs_in_full is None
    assert full.totals["sent_raw_bytes"] == full.totals["raw_bytes"]


OBJECTS = ("metadata", "manifest", "own part", "borrowed part", "record")
DAMAGES = [(what, damage) for what in OBJECTS for damage in (Path.unlink, truncated, longer, flipped)]
DAMAGES += [("own part", without_index), ("borrowed part", without_index), ("metadata", of_later_version)]


@pytest.mark.parametrize(("what", "damage"), DAMAGES)
def test_a_damaged_parent(lineage: Lineage, what: str, damage: Callable[[Path], None]) -> None:
    """Whatever of it is damaged or lost: all is packed, the run says why, and the snapshot opens the gate."""
    key = {
        "metadata": keys.metadata(MACHINE, lineage.parent.id),
        "manifest": keys.manifest(MACHINE, lineage.parent.id),
        "own part": lineage.parent.own_parts[0],
        "borrowed part": lineage.grandparent.own_parts[0],
        "record": keys.verified(MACHINE, lineage.parent.id),
    }[what]
    damage(lineage.path(key))
    taken = lineage.next(parent=lineage.parent.id)
    assert taken.metadata.parent is None and taken.metadata.lenders == [taken.id]
    assert taken.run.packs_in_full is not None and lineage.parent.id in taken.run.packs_in_full
    assert lineage.next().metadata.parent == taken.id


@pytest.mark.parametrize(
    ("mode", "why"), [("sample", "was verified by 'sample', which is not enough"), (None, "was never verified")]
)
def test_a_parent_that_nobody_has_read_back(lineage: Lineage, mode: VerifyMode | None, why: str) -> None:
    """It lends nothing to a snapshot for which a machine goes; to a backup, which proves nothing itself, it lends."""
    lineage.store.delete(keys.verified(MACHINE, lineage.parent.id))
    if mode is not None:
        verify(lineage.store, lineage.parent.id, mode)
    backup = take(lineage.store, lineage.workspace, parent=lineage.parent.id)
    assert backup.metadata.parent == lineage.parent.id and backup.run.packs_in_full is None
    deletion.delete(lineage.store, backup.id)
    taken = lineage.next()
    assert taken.metadata.parent is None and why in (taken.run.packs_in_full or "")


def test_a_record_of_another_manifest(lineage: Lineage) -> None:
    """It is void, so the parent was never verified."""
    key = keys.verified(MACHINE, lineage.parent.id)
    lineage.change(key, "verified", manifest={**lineage.parent.metadata.manifest.document(), "blake3": "0" * 64})
    assert "was never verified" in (lineage.next().run.packs_in_full or "")


@pytest.mark.parametrize("whose", ["own", "borrowed"])
def test_what_failed_verification_is_never_borrowed(lineage: Lineage, whose: str) -> None:
    """A part rots after it was read. Whoever reads it fails. From then on nobody borrows it: not from that snapshot,
    not from the one that the part belongs to, not from a third that uses it; not even once the one that failed is
    deleted. A backup does not, either."""
    third = lineage.next()
    assert third.metadata.parent == lineage.parent.id
    lineage.rot((lineage.parent if whose == "own" else lineage.grandparent).own_parts[0])
    with pytest.raises(Corrupt, match="hash to"):
        verify(lineage.store, third.id)
    record = verified.read(lineage.store, MACHINE, third.id)
    assert record.mode == FAILED and "hash to" in (record.failure or "") and record.read_keys == frozenset()
    deletion.delete(lineage.store, third.id)
    backup = take(lineage.store, lineage.workspace)
    assert backup.metadata.parent is None and "could be read back" in (backup.run.packs_in_full or "")
    deletion.delete(lineage.store, backup.id)
    assert "could be read back" in (lineage.next(parent=lineage.parent.id).run.packs_in_full or "")


def test_a_lender_that_fails_before_the_gate(lineage: Lineage) -> None:
    """What was borrowed from it was not read again, as that was done recently: the gate is shut until it is."""
    taken = take(lineage.store, lineage.workspace, strict=True)
    read_back(lineage.store, taken.id)
    check_destroyable(lineage.store, MACHINE, taken.id, "i-1")
    lineage.rot(lineage.grandparent.own_parts[0])
    with pytest.raises(Corrupt):
        verify(lineage.store, lineage.grandparent.id)
    with pytest.raises(Refused, match=rf"uses parts of {lineage.grandparent.id}.*goes on billing; hibernate it again"):
        check_destroyable(lineage.store, MACHINE, taken.id, "i-1")


def test_a_part_that_came_back_lends_again(lineage: Lineage) -> None:
    """Once all of the parent was read whole; a verification of less of it, as `only` some parts, does not do."""
    path = lineage.path(lineage.parent.own_parts[0])
    good = path.read_bytes()
    path.unlink()
    with pytest.raises(NotFound):
        verify(lineage.store, lineage.parent.id)
    path.write_bytes(good)
    session = EngineSession(ThreadHost())
    try:
        VerifyRun(lineage.store, session, lineage.parent.metadata, only=frozenset()).run_all()
    finally:
        session.close()
    assert verified.read(lineage.store, MACHINE, lineage.parent.id).failed
    verify(lineage.store, lineage.parent.id)
    assert lineage.next().metadata.parent == lineage.parent.id


@pytest.mark.parametrize("when", ["before the scan", "after the scan", "after the manifest"])
def test_a_part_lost_meanwhile(lineage: Lineage, when: str) -> None:
    """A part of the parent goes while it is borrowed: the run notices, at the latest when it is read back, and the same
    again with the same id or, once it was committed, another one packs in full."""
    lost = lineage.path(lineage.parent.own_parts[0])
    snapshot_id = "20300101T000000Z-00000001"
    store = hooked(lineage.store, after={"put": lambda key, _: lost.unlink() if key.startswith("manifests/") else None})
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(store, session, order(lineage.workspace, snapshot_id))
        run.open()
        if when == "before the scan":
            lost.unlink()
        session.hello(str(lineage.workspace))
        run.scan()
        if when == "after the scan":
            lost.unlink()
        assert not run.settle()
        if when == "after the manifest":
            run.store = store
            metadata = run.write_metadata()
            with pytest.raises(NotFound):
                VerifyRun(store, session, metadata, all_parts=False).run_all()
        else:
            with pytest.raises(NotFound, match="the snapshot was not committed: do the same again"):
                run.write_metadata()
    finally:
        session.close()
    taken = lineage.next(None if when == "after the manifest" else snapshot_id)
    assert taken.metadata.parent is None and taken.run.packs_in_full is not None


def test_a_parent_removed_while_it_is_borrowed(lineage: Lineage) -> None:
    """Its parts stay for the run that names it; the run goes on, and its snapshot is whole without the parent."""
    session = EngineSession(ThreadHost())
    try:
        run = SnapshotRun(lineage.store, session, order(lineage.workspace))
        run.open()
        deletion.delete(lineage.store, lineage.parent.id)
        session.hello(str(lineage.workspace))
        run.scan()
        assert not run.settle()
        metadata = run.write_metadata()
        VerifyRun(lineage.store, session, metadata, all_parts=False).run_all()
    finally:
        session.close()
    assert metadata.parent == lineage.parent.id
    check_destroyable(lineage.store, MACHINE, metadata.snapshot_id, "i-1")


def test_a_run_continued_without_its_parent(lineage: Lineage) -> None:
    """It was begun with a parent by name, which has gone since without a trace: it is ended in full."""
    snapshot_id, parent = "20300101T000000Z-00000001", lineage.parent.id
    session = EngineSession(ThreadHost())
    try:
        SnapshotRun(lineage.store, session, order(lineage.workspace, snapshot_id, parent=parent)).open()
    finally:
        session.close()
    for key in (keys.metadata(MACHINE, parent), keys.manifest(MACHINE, parent), *lineage.parent.own_parts):
        lineage.store.delete(key)
    taken = lineage.next(snapshot_id, parent=parent)
    assert taken.metadata.parent is None and "does not exist" in (taken.run.packs_in_full or "")


def test_a_grandparent_without_its_documents(lineage: Lineage) -> None:
    """The parent needs of it nothing but its parts, so it lends as before."""
    for place in (keys.metadata, keys.manifest, keys.verified):
        lineage.store.delete(place(MACHINE, lineage.grandparent.id))
    assert lineage.next().metadata.parent == lineage.parent.id


def test_a_parent_of_another_machine_and_workspace(lineage: Lineage, tmp_path: Path) -> None:
    """It lends by name what is the same by hash alone: the snapshot is whole."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "old").write_bytes(noise(300_000, 1))
    (other / "new").write_bytes(noise(200_000, 3))
    taken = take(lineage.store, aged(other), strict=True, machine="m2", parent=lineage.parent.id)
    assert taken.metadata.parent == lineage.parent.id and taken.metadata.machine == "m2"
    read_back(lineage.store, taken.id)
    restore(lineage.store, taken.id, lineage.back)
    assert differences(other, lineage.back) == []
