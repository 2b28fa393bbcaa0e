"""A workspace of which most is gone, or that is another one, keeps its machine until somebody says that it is meant."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poorwill.control.machine.destruction import check_destroyable
from poorwill.control.records import catalog, intents
from poorwill.control.records.holdings import Holdings
from poorwill.control.records.intents import Intent
from poorwill.control.removal import retention
from poorwill.errors import Refused
from poorwill.snapshot import keys
from poorwill.snapshot.retention_policy import Policy
from poorwill.snapshot.shrinkage import AFTERWARDS, ELSEWHERE, SHRANK
from poorwill.store.local import LocalStore
from tests.support.runs import MACHINE, Taken, take, verify
from tests.support.workspaces import aged, noise

INSISTING = r'allow_shrink=True \(in the API "allow_shrink": true, on the command line --allow-shrink\)'


def files(workspace: Path, count: int, size: int = 2000) -> Path:
    workspace.mkdir(exist_ok=True)
    for number in range(count):
        (workspace / f"f{number}").write_bytes(noise(size, number))
    return aged(workspace)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return files(tmp_path / "w", 20)


def taken(store: LocalStore, workspace: Path, **fields: Any) -> Taken:
    """A snapshot that was read back."""
    made = take(store, workspace, **fields)
    verify(store, made.id)
    return made


def gate(store: LocalStore, made: Taken, **given: Any) -> None:
    check_destroyable(store, MACHINE, made.id, "i-1", **given)


def keep_last(store: LocalStore, count: int = 1) -> dict[str, tuple[str, ...]]:
    plan = retention.plan(Holdings(store), Policy(last=count), 0.0)
    return {verdict.owner[1]: verdict.reasons for verdict in plan.verdicts}


def emptied(workspace: Path) -> Path:
    shutil.rmtree(workspace)
    workspace.mkdir()
    return workspace


def test_nothing_at_all(local_store: LocalStore, tmp_path: Path) -> None:
    """Also as the first snapshot ever; folders and links are not something."""
    (tmp_path / "w" / "lost+found").mkdir(parents=True)
    (tmp_path / "w" / "link").symlink_to("lost+found")
    made = taken(local_store, tmp_path / "w")
    with pytest.raises(Refused, match=rf"there is nothing in .*/w, no file and no byte: .* bill.*{INSISTING}"):
        gate(local_store, made)
    gate(local_store, made, allow_shrink=True)


def test_a_mount_that_is_missing(local_store: LocalStore, workspace: Path) -> None:
    """What is left of a workspace is the directory. What was there before is not given up, whatever the policy."""
    full = taken(local_store, workspace)
    gate(local_store, full)
    empty = taken(local_store, emptied(workspace))
    with pytest.raises(Refused, match="there is nothing"):
        gate(local_store, empty)
    assert keep_last(local_store) == {empty.id: ("last snapshot", AFTERWARDS), full.id: (SHRANK,)}
    meant = taken(local_store, workspace, allow_shrink=True)
    gate(local_store, meant)
    assert keep_last(local_store) == {meant.id: ("last snapshot",), empty.id: (), full.id: ()}


@pytest.mark.parametrize(("left", "size"), [(9, 5000), (20, 900)])
def test_more_than_half_is_gone(local_store: LocalStore, workspace: Path, left: int, size: int) -> None:
    """Of the files, though there are more bytes; of the bytes, though there are as many files."""
    full = taken(local_store, workspace)
    emptied(workspace)
    fallen = taken(local_store, files(workspace, left, size))
    with pytest.raises(Refused, match=rf"of \d+ (files|bytes) in snapshot {full.id} \d+ are left: .*{INSISTING}"):
        gate(local_store, fallen)
    assert keep_last(local_store)[full.id] == (SHRANK,)


def test_half_is_enough(local_store: LocalStore, workspace: Path) -> None:
    """Ten files of twenty."""
    taken(local_store, workspace)
    gate(local_store, taken(local_store, files(emptied(workspace), 10)))


def test_a_backup_does_not_hide_a_fall(local_store: LocalStore, workspace: Path) -> None:
    """A backup of the fallen workspace comes first: the hibernation behind it is compared with what was before, too."""
    full = taken(local_store, workspace)
    take(local_store, emptied(workspace))
    fallen = taken(local_store, files(workspace, 1))
    with pytest.raises(Refused, match=f"in snapshot {full.id}"):
        gate(local_store, fallen)
    take(local_store, workspace, allow_shrink=True)
    gate(local_store, taken(local_store, workspace))


def test_many_backups_do_not_hide_a_fall(local_store: LocalStore, workspace: Path) -> None:
    """Each is a likely successor of the one before, but for the first. Once most of it is back the gate opens."""
    full = taken(local_store, workspace)
    files(emptied(workspace), 5)
    for _ in range(3):
        fallen = taken(local_store, workspace)
    with pytest.raises(Refused, match=f"of 20 files in snapshot {full.id} 5 are left"):
        gate(local_store, fallen)
    assert keep_last(local_store)[full.id] == (SHRANK,)
    gate(local_store, taken(local_store, files(workspace, 12)))
    assert keep_last(local_store)[full.id] == (SHRANK,)


def test_a_fall_in_steps(local_store: LocalStore, workspace: Path) -> None:
    """Of less than half each is work on the files, until it is more than half of what was woken."""
    full = taken(local_store, workspace)
    taken(local_store, files(emptied(workspace), 12))
    made = taken(local_store, files(emptied(workspace), 7))
    gate(local_store, made)
    wake = Intent("poorwill-01234567-m1-0123456789ab", MACHINE, full.id, "p", "2026-01-01T00:00:00Z", "i-1", True)
    intents.write(local_store, wake)
    with pytest.raises(Refused, match=f"of 20 files in snapshot {full.id} 7 are left"):
        gate(local_store, made)


def test_a_wake_in_part_by_the_record_alone(local_store: LocalStore, workspace: Path) -> None:
    """The machine has forgotten it, as somebody removed its state."""
    made = taken(local_store, workspace)
    wake = Intent("poorwill-01234567-m1-0123456789ab", MACHINE, made.id, "p", "2026-01-01T00:00:00Z", "i-1", True)
    intents.write(local_store, wake)
    intents.note_partial(local_store, MACHINE, "i-1", True)
    with pytest.raises(Refused, match=f"woken only in part .* from snapshot {made.id}"):
        gate(local_store, made)
    intents.note_partial(local_store, MACHINE, "i-1", False)
    gate(local_store, made)


def test_another_directory(local_store: LocalStore, workspace: Path, tmp_path: Path) -> None:
    """A mistyped path, as large as the right one. The last of the right one is kept."""
    right = taken(local_store, workspace)
    wrong = taken(local_store, files(tmp_path / "v", 20))
    with pytest.raises(Refused, match=rf"it is of .*/v, and snapshot {right.id} is of .*/w: .*{INSISTING}"):
        gate(local_store, wrong)
    assert keep_last(local_store)[right.id] == (ELSEWHERE,)
    again = taken(local_store, tmp_path / "v")
    with pytest.raises(Refused, match=rf"it is of .*/v, and snapshot {right.id} is of .*/w"):
        gate(local_store, again)
    gate(local_store, wrong, allow_shrink=True)


def test_the_same_directory_in_another_spelling(local_store: LocalStore, workspace: Path) -> None:
    """Is the same."""
    taken(local_store, workspace)
    gate(local_store, taken(local_store, workspace / ".." / "w"))


def test_what_the_machine_was_woken_from(local_store: LocalStore, workspace: Path) -> None:
    """A replica has no snapshot of its own yet: it is compared with what it was woken from."""
    full = taken(local_store, workspace, machine="original")
    made = taken(local_store, files(emptied(workspace), 3))
    gate(local_store, made)
    label = "poorwill-01234567-m1-0123456789ab"
    wake = Intent(label, MACHINE, full.id, "p", "2026-01-01T00:00:00Z", "i-1", True)
    intents.write(local_store, wake)
    with pytest.raises(Refused, match=f"of 20 files in snapshot {full.id} 3 are left"):
        gate(local_store, made)


def test_what_cannot_be_read_is_not_compared(local_store: LocalStore, workspace: Path) -> None:
    """It could not be woken either, so the machine may go with the snapshot that can."""
    full = taken(local_store, workspace)
    fallen = taken(local_store, files(emptied(workspace), 3))
    local_store.put(keys.metadata(MACHINE, full.id), b"damaged")
    gate(local_store, fallen)


def test_an_unverified_one_is_never_the_newest(local_store: LocalStore, workspace: Path) -> None:
    """keep_last 1 keeps the newest, and the newest that was read back."""
    first, proved = taken(local_store, workspace), taken(local_store, workspace)
    (workspace / "more").write_bytes(b"more")
    unread = take(local_store, workspace)
    assert keep_last(local_store) == {
        unread.id: ("last snapshot",), proved.id: ("last snapshot of those verified",), first.id: (),
    }  # fmt: skip


def test_one_whose_verification_failed_takes_no_place(local_store: LocalStore, workspace: Path) -> None:
    """The newest failed: it stays as the newest, and the place of the last snapshot is another's."""
    proved, unread = taken(local_store, workspace), take(local_store, workspace)
    failed = taken(local_store, workspace)
    record = verify(local_store, failed.id)
    local_store.put(record.key, replace(record, mode="failed").seal())
    found = keep_last(local_store, 1)
    assert found[failed.id] == ("newest of its machine",) and found[unread.id] == ("last snapshot",)
    assert found[proved.id] == ("last snapshot of those verified",)
    with pytest.raises(Refused, match="cannot be read back"):
        gate(local_store, failed)
    assert catalog.latest(local_store, MACHINE) == failed.id
