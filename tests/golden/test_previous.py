"""A store that the release before left behind: this one does with it whatever that one did."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from poorwill.control.machine.destruction import check_destroyable
from poorwill.control.records import catalog, intents, trash, verified
from poorwill.control.records.holdings import Holdings
from poorwill.control.records.pending import Pending
from poorwill.control.removal import deletion, purging
from poorwill.errors import NotFound, Refused
from poorwill.snapshot import documents, keys
from poorwill.store.local import LocalStore
from tests.golden import make_previous, reader
from tests.golden.make_previous import BORROWING, CUT_OFF, FILES, LABEL, LENDING, MACHINE, TRASHED
from tests.support.engines import ThreadHost
from tests.support.program import poorwill
from tests.support.runs import convert, restore, take, verify
from tests.support.workspaces import aged


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    shutil.copytree(make_previous.STORE, tmp_path / "store")
    return LocalStore(tmp_path / "store")


def content(folder: Path) -> dict[str, bytes]:
    """The regular files of a workspace, which also has the link."""
    assert (folder / "link").readlink() == Path("notes.md")
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.is_symlink()}


def test_listed_and_shown(store: LocalStore) -> None:
    """By the program, which shows each document as it lies in the store."""
    (*rows, unfinished, _) = poorwill("ls", "--store", store.url, "--json").events
    assert unfinished == {"event": "unfinished", "machine": MACHINE, "snapshot_id": CUT_OFF}
    assert [(row["snapshot_id"], row["name"], row["tags"]) for row in rows] == [
        (LENDING, None, []), (BORROWING, "before the upgrade", ["a", "b"]),
    ]  # fmt: skip
    shown = poorwill("show", BORROWING, "--store", store.url)
    written = json.loads(store.get(keys.metadata(MACHINE, BORROWING)))
    assert shown.out == json.dumps({k: v for k, v in written.items() if k != "checksum"}, indent=2) + "\n"


@pytest.mark.parametrize("snapshot_id", [LENDING, BORROWING])
def test_verified_and_restored(store: LocalStore, snapshot_id: str, tmp_path: Path) -> None:
    """Every byte of it, also by the reader that knows the documentation alone."""
    assert verify(store, snapshot_id, "full").proves
    restore(store, snapshot_id, tmp_path / "back")
    command = [sys.executable, "-I", reader.__file__, tmp_path / "store", MACHINE, snapshot_id, tmp_path / "read"]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)
    assert content(tmp_path / "back") == content(tmp_path / "read") == FILES[snapshot_id]


def test_converted(store: LocalStore, tmp_path: Path) -> None:
    """Into a snapshot that uses nothing of it, and describes the same workspace."""
    new, old = convert(store, BORROWING, host=ThreadHost()), catalog.find(store, BORROWING)
    assert (new.metadata.name, new.metadata.tags, new.metadata.facts) == (old.name, old.tags, old.facts)
    deletion.delete(store, BORROWING, force=True)
    restore(store, new.id, tmp_path / "back")
    assert content(tmp_path / "back") == FILES[BORROWING]


def test_what_was_in_the_trash(store: LocalStore, tmp_path: Path) -> None:
    """Comes back with all that its metadata said, goes to the trash again, and is purged there."""
    trashed = documents.unseal(store.get(keys.trash(MACHINE, TRASHED)), "trash", "trash")
    with pytest.raises(NotFound):
        catalog.find(store, TRASHED)
    assert trash.undelete(store, TRASHED).document().items() >= {
        name: value for name, value in trashed.items() if name not in ("format", "trashed_at_s")
    }.items()  # fmt: skip
    restore(store, TRASHED, tmp_path / "back")
    assert content(tmp_path / "back") == FILES[TRASHED]
    trash.move(store, (MACHINE, TRASHED))
    assert purging.purge(Holdings(store), 0).removed == [(MACHINE, TRASHED)]
    assert not [info.key for info in store.list("") if TRASHED in info.key]


def test_trashed_and_removed(store: LocalStore) -> None:
    """Nothing that the pending record of that release holds on to goes, and all of it once that is given up."""
    for snapshot_id in (BORROWING, LENDING):
        trash.move(store, (MACHINE, snapshot_id))
    holdings = Holdings(store)
    assert purging.purge(holdings, 0).kept.keys() == {(MACHINE, LENDING), (MACHINE, BORROWING)}
    assert holdings.pending[MACHINE, CUT_OFF].record.borrows == (LENDING, BORROWING)
    deletion.delete(store, CUT_OFF, force=True)
    assert [info.key for info in store.list("")] == [keys.intent(LABEL)]


def test_its_verification_and_its_intent_count(store: LocalStore) -> None:
    """A machine may be destroyed on the word of that release, and one that it was about to wake is known."""
    assert verified.read(store, MACHINE, BORROWING).verified_at_s > 0
    assert check_destroyable(store, MACHINE, BORROWING, "i-1").name == "before the upgrade"
    with pytest.raises(Refused, match="is of"):
        check_destroyable(store, MACHINE, BORROWING, "i-2")
    (intent,) = intents.every(store)
    assert (intent.label, intent.machine, intent.woken, intent.price) == (LABEL, MACHINE, False, None)
    assert intent.seal() == store.get(keys.intent(LABEL))


def test_what_it_began_is_its_own(store: LocalStore, tmp_path: Path) -> None:
    """The id of what it was cut off in is not taken for another workspace, and is for the same one."""
    (tmp_path / "other").mkdir()
    with pytest.raises(Refused, match="was begun for /var/tmp/poorwill-previous"):
        take(store, tmp_path / "other", CUT_OFF, machine=MACHINE, parent=BORROWING)
    record = Pending.unseal(store.get(keys.pending(MACHINE, CUT_OFF)), keys.pending(MACHINE, CUT_OFF))
    workspace = tmp_path / "w"
    workspace.mkdir()
    store.put(record.key, replace(record, workspace=str(workspace)).seal())
    taken = take(store, aged(workspace), CUT_OFF, machine=MACHINE, parent=BORROWING)
    assert taken.metadata.parent == BORROWING


def test_the_independent_reader_reads_what_is_written_now(local_store: LocalStore, tmp_path: Path) -> None:
    """A first snapshot and one that borrows from it."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "link").symlink_to("notes.md")
    for name, data in FILES[BORROWING].items():
        (workspace / name).write_bytes(data)
        taken = take(local_store, aged(workspace), codec="zstd")
    assert len(taken.metadata.parts) == 2
    folder = Path(local_store.url.removeprefix("file://"))
    reader.restore(folder, taken.metadata.machine, taken.id, tmp_path / "read")
    assert content(tmp_path / "read") == FILES[BORROWING]
