"""A second snapshot reads what changed and sends what is new, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poorwill.control.records import catalog
from poorwill.control.records.pending import Pending
from poorwill.errors import NotFound
from poorwill.store.local import LocalStore
from tests.support.hooked_store import hooked
from tests.support.runs import MACHINE, restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import CHUNK_BYTES, SKIPPED, aged, make_everything, make_large, noise, safetensors


def test_nothing_changed(local_store: LocalStore, tmp_path: Path) -> None:
    """Nothing is read, nothing is sent, and the second snapshot restores by itself."""
    workspace = aged(make_everything(tmp_path / "w"))
    first = take(local_store, workspace)
    second = take(local_store, workspace)
    assert second.metadata.parent == first.id
    assert second.counters["read_bytes"] == 0
    assert second.totals["sent_bytes"] == 0 and second.own_parts == []
    assert {k: v for k, v in second.totals.items() if k in ("raw_bytes", "chunks", "entries")} == {
        k: v for k, v in first.totals.items() if k in ("raw_bytes", "chunks", "entries")
    }
    restore(local_store, second.id, tmp_path / "back", privileged=True)
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []


def test_one_percent_of_a_large_file(local_store: LocalStore, tmp_path: Path) -> None:
    """A contiguous change sends the chunks it touches."""
    workspace = aged(make_large(tmp_path / "w", 5))
    take(local_store, workspace)
    with open(workspace / "large.bin", "r+b") as file:
        file.seek(2 * CHUNK_BYTES - 1000)
        file.write(noise(5 * CHUNK_BYTES // 100, 9))
    second = take(local_store, aged(workspace))
    assert second.counters["read_bytes"] == 5 * CHUNK_BYTES
    assert second.totals["sent_raw_bytes"] == 2 * CHUNK_BYTES
    assert second.totals["sent_bytes"] < 2 * CHUNK_BYTES + 10_000
    restore(local_store, second.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_a_header_that_grew(local_store: LocalStore, tmp_path: Path) -> None:
    """Chunks are cut from the tensor data on, so only the header is sent."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "m.safetensors").write_bytes(safetensors("F32", 5_000_000, 1))
    take(local_store, aged(workspace))
    (workspace / "m.safetensors").write_bytes(safetensors("F32", 5_000_000, 1, padding=77))
    second = take(local_store, aged(workspace))
    assert 0 < second.totals["sent_raw_bytes"] < 1000
    restore(local_store, second.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_renamed_linked_and_touched(local_store: LocalStore, tmp_path: Path) -> None:
    """A new name, a further hardlink and another time may cost reading, but no byte is sent."""
    workspace = aged(make_large(tmp_path / "w", 2))
    take(local_store, workspace)
    (workspace / "large.bin").rename(workspace / "renamed.bin")
    os.link(workspace / "3.txt", workspace / "hardlink")
    os.utime(workspace / "4.txt", ns=(1, 2))
    (workspace / "5.txt").chmod(0o600)
    second = take(local_store, aged(workspace))
    assert second.counters["read_bytes"] >= 2 * CHUNK_BYTES
    # The small files that were touched make a bundle of their own, which no earlier chunk equals.
    assert second.totals["sent_raw_bytes"] == sum((workspace / f"{n}.txt").stat().st_size for n in (3, 4, 5))
    restore(local_store, second.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_the_first_snapshot_after_a_restore_reads_nothing(local_store: LocalStore, tmp_path: Path) -> None:
    """What was restored is recognised by the inodes and ctimes that the restore remembered."""
    workspace = aged(make_everything(tmp_path / "w"))
    first = take(local_store, workspace)
    restore(local_store, first.id, tmp_path / "back", privileged=True)
    second = take(local_store, tmp_path / "back", machine="m2", parent=first.id)
    assert second.counters["read_bytes"] == 0 and second.totals["sent_bytes"] == 0
    (tmp_path / "back" / "src" / "p1" / "f5.py").write_text("changed after the restore")
    third = take(local_store, aged(tmp_path / "back"), machine="m2")
    assert third.totals["sent_raw_bytes"] == len("changed after the restore")


def test_a_change_right_after_a_restore_is_seen(local_store: LocalStore, tmp_path: Path) -> None:
    """Also one of the same size, with the time set back, at once: its ctime is another one."""
    first = take(local_store, aged(make_large(tmp_path / "w", 1)))
    restore(local_store, first.id, tmp_path / "back")
    path = tmp_path / "back" / "7.txt"
    before = path.stat()
    path.write_text(path.read_text().replace("7", "8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = take(local_store, tmp_path / "back", parent=first.id)
    restore(local_store, second.id, tmp_path / "again")
    assert (tmp_path / "again" / "7.txt").read_text().startswith("8\n")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not really a zip", b"\x93NUMPY"])
def test_a_damaged_memory_costs_time_only(
    local_store: LocalStore, tmp_path: Path, state_dir: Path, damage: bytes
) -> None:
    """What was remembered of a restore is lost: everything is read, nothing sent."""
    first = take(local_store, aged(make_large(tmp_path / "w", 1)))
    restore(local_store, first.id, tmp_path / "back")
    (memory,) = state_dir.glob("woken-*")
    memory.write_bytes(damage)
    second = take(local_store, tmp_path / "back", parent=first.id)
    assert second.counters["read_bytes"] > CHUNK_BYTES and second.totals["sent_bytes"] == 0


def test_a_file_changed_within_the_tick_of_a_scan(local_store: LocalStore, tmp_path: Path) -> None:
    """Same size and same times as when it was scanned: only distrust of such young files finds it."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    for number in range(20):
        (workspace / "f").write_text(f"{number:04}")
        taken = take(local_store, workspace)
        restore(local_store, taken.id, tmp_path / f"back-{number}")
        assert (tmp_path / f"back-{number}" / "f").read_text() == f"{number:04}"


def test_the_parent_was_deleted(local_store: LocalStore, tmp_path: Path) -> None:
    """Without it everything is read and sent again, and asked for by name it is said. Unknown ones are refused."""
    workspace = aged(make_large(tmp_path / "w", 1))
    first = take(local_store, workspace)
    local_store.delete(f"snapshots/{MACHINE}/{first.id}.json")
    with pytest.raises(NotFound, match="20250101T000000Z-00000001"):
        take(local_store, workspace, parent="20250101T000000Z-00000001")
    named = take(local_store, workspace, parent=first.id)
    assert named.metadata.parent is None and f"{first.id} does not exist" in (named.run.packs_in_full or "")
    local_store.delete(f"snapshots/{MACHINE}/{named.id}.json")
    second = take(local_store, workspace)
    assert second.metadata.parent is None
    assert second.totals["sent_raw_bytes"] == second.totals["raw_bytes"]


def test_the_parent_is_deleted_meanwhile(local_store: LocalStore, tmp_path: Path) -> None:
    """Gone between the choice and the second look: the snapshot is taken without it, and says so in its record."""
    workspace = aged(make_large(tmp_path / "w", 1))
    first = take(local_store, workspace)

    borrowed: list[list[str]] = []

    def delete(key: str, count: int) -> None:
        if key.startswith("pending/"):
            local_store.delete(f"snapshots/{MACHINE}/{first.id}.json")
            borrowed.append(list(Pending.unseal(local_store.get(key), key).borrows))

    second = take(hooked(local_store, after={"put": delete}), workspace)
    assert second.metadata.parent is None and second.totals["sent_raw_bytes"] == second.totals["raw_bytes"]
    assert borrowed[:2] == [[first.id], []]
    verify(local_store, second.id)


def test_a_lineage_of_several(local_store: LocalStore, tmp_path: Path) -> None:
    """Each borrows from all before it and restores without them being looked at."""
    workspace = make_large(tmp_path / "w", 1)
    ids: list[str] = []
    for number in range(4):
        (workspace / f"new-{number}").write_bytes(noise(300_000, 50 + number))
        parent = ids[-1] if ids else None  # ids of one second have no order
        ids.append(take(local_store, aged(workspace), parent=parent).id)
    last = catalog.find(local_store, ids[-1])
    assert {part.key.split("/")[2] for part in last.parts if part.borrowed} == set(ids[:-1])
    for snapshot_id in ids[:-1]:
        local_store.delete(f"manifests/{MACHINE}/{snapshot_id}")
    restore(local_store, ids[-1], tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []
