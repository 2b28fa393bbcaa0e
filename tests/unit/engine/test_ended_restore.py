"""A restore that had ended says so when it is asked for again, and touches nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from poorwill.engine.operations import Operations
from poorwill.engine.protocol import requests
from poorwill.engine.protocol.context import Context
from poorwill.errors import Refused
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.local import LocalStore
from tests.support.program import poorwill
from tests.support.runs import Taken, restore, take
from tests.support.trees import differences
from tests.support.workspaces import aged, make_everything, make_large

MTIME_NS = 1_600_000_000_000_000_000


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return aged(make_large(tmp_path / "w", 1))


@pytest.fixture
def taken(local_store: LocalStore, workspace: Path) -> Taken:
    return take(local_store, workspace)


def record(state_dir: Path) -> Path:
    (found,) = state_dir.glob("restored-*.json")
    return found


def test_asked_again_it_is_done(local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path) -> None:
    """No part, no byte, the counts of the first answer; what the user did since is as it was."""
    back = tmp_path / "back"
    first = restore(local_store, taken.id, back)
    (back / "0.txt").write_text("hours of work")
    (back / "1.txt").unlink()
    again = restore(local_store, taken.id, back)
    assert again.result["already_done"] and not first.result["already_done"]
    assert again.parts == [] and again.counters["written_bytes"] == 0
    assert again.result["restored"] == first.result["restored"] and again.result["fetched_bytes"] == 0
    assert (back / "0.txt").read_text() == "hours of work" and not (back / "1.txt").exists()


def test_what_was_left_out_is_told_again(local_store: LocalStore, tmp_path: Path) -> None:
    """An answer that was lost was perhaps not one without a word."""
    taken = take(local_store, aged(make_everything(tmp_path / "w")), skip_unreadable=True)
    first = restore(local_store, taken.id, tmp_path / "back")
    assert first.result["left_out"]
    assert restore(local_store, taken.id, tmp_path / "back").result["left_out"] == first.result["left_out"]


def test_with_overwriting_it_is_carried_out(
    local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path
) -> None:
    """Who overwrites wants the snapshot's state back."""
    back = tmp_path / "back"
    restore(local_store, taken.id, back)
    (back / "0.txt").write_text("a mistake")
    assert not restore(local_store, taken.id, back, overwrite=True).result["already_done"]
    assert differences(workspace, back) == []


def test_into_an_emptied_directory_it_is_carried_out(
    local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path
) -> None:
    """Nothing is there that could be lost, and nothing of what was restored is left."""
    back = tmp_path / "back"
    restore(local_store, taken.id, back)
    for entry in back.iterdir():
        entry.unlink()
    assert not restore(local_store, taken.id, back).result["already_done"]
    assert differences(workspace, back) == []


@pytest.mark.parametrize("lost", ["state", "boot", "directory", "selection", "snapshot"])
def test_another_restore_is_not_taken_for_it(
    local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path, state_dir: Path, lost: str
) -> None:
    """What is not known to be done is refused, as into any directory that holds something."""
    back, include, snapshot_id = tmp_path / "back", (), taken.id
    restore(local_store, taken.id, back)
    if lost == "state":
        record(state_dir).unlink()
    elif lost == "boot":
        path = record(state_dir)
        path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "before the last one"}))
    elif lost == "directory":
        # The inode of the one that was removed is given to the next one on many file systems.
        shutil.rmtree(back)
        back.mkdir()
        (back / "0.txt").write_text("of somebody else")
    elif lost == "selection":
        include = ("*.txt",)
    else:
        (workspace / "0.txt").write_text("later")
        snapshot_id = take(local_store, aged(workspace)).id
    with pytest.raises(Refused, match="it is not empty: nothing was restored"):
        restore(local_store, snapshot_id, back, include=include)


def test_cut_off_after_its_mark_went(
    local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path, state_dir: Path
) -> None:
    """The mark goes last but for the root's times, which its removal moved: asked again, they are set."""
    back = tmp_path / "back"
    restore(local_store, taken.id, back)
    path = record(state_dir)
    path.write_text(json.dumps({**json.loads(path.read_text()), "settled": False}))
    os.utime(back, ns=(MTIME_NS, MTIME_NS))
    assert restore(local_store, taken.id, back).result["already_done"]
    assert differences(workspace, back) == []
    os.utime(back, ns=(MTIME_NS, MTIME_NS))
    assert restore(local_store, taken.id, back).result["already_done"]
    assert back.stat().st_mtime_ns == MTIME_NS  # by now it is the user's


def test_a_later_restore_that_was_cut_off_and_unmarked_by_hand(
    local_store: LocalStore, workspace: Path, taken: Taken, tmp_path: Path
) -> None:
    """What ended before it is forgotten as soon as it begins."""
    back = tmp_path / "back"
    restore(local_store, taken.id, back)
    (workspace / "0.txt").write_text("later")
    later = take(local_store, aged(workspace)).metadata
    operations = Operations()
    answer = lambda question: local_store.grant_read(question.key, expires_s=60)  # noqa: E731
    order = RestoreOrder(str(back), overwrite=True)
    operations.op_open_restore(requests.OpenRestore(later.manifest, order), Context("test", 60.0, answer))
    operations.close()
    (back / ".poorwill-restore").unlink()
    with pytest.raises(Refused, match="it is not empty"):
        restore(local_store, taken.id, back)


def test_the_program_says_so(local_store: LocalStore, taken: Taken, tmp_path: Path) -> None:
    """Exit code 0, in words and as JSON, with the way to restore all the same."""
    command = ("restore", taken.id, tmp_path / "back", "--store", local_store.url)
    assert poorwill(*command).code == 0
    again = poorwill(*command)
    assert again.code == 0 and again.err == ""
    assert "was restored to" in again.out and "nothing was done" in again.out and "--overwrite" in again.out
    done = poorwill(*command, "--json").done
    assert done["already_done"] and done["fetched_bytes"] == 0 and done["raw_bytes"] == taken.totals["raw_bytes"]
