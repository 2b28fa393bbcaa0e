"""The flow `verify` against a real Prefect server and real engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.verify import verify
from poorwill.control.records import trash, verified
from poorwill.errors import Corrupt, UsageError
from tasks.events import VERIFICATION_FAILED
from tests.flows.test_hibernate_and_wake import artifacts
from tests.support.flow_world import World
from tests.support.runs import take
from tests.support.told_events import told
from tests.support.workspaces import aged, make_large, noise

OLD, CHILD, OTHER = (f"2026010{day}T120000Z-0000000{day}" for day in (1, 2, 3))


def taken(world: World, tmp_path: Path) -> dict[str, list[str]]:
    """Two snapshots of one machine, the second of which borrows, and one of another. Returns their own parts."""
    workspace = make_large(tmp_path / "w", 1)
    first = take(world.store, aged(workspace), OLD, machine=world.name)
    (workspace / "new").write_bytes(noise(300_000, 9))
    second = take(world.store, aged(workspace), CHILD, machine=world.name)
    third = take(world.store, aged(make_large(tmp_path / "v", 1)), OTHER, machine="other")
    return {each.id: each.own_parts for each in (first, second, third)}


def damage(world: World, key: str) -> None:
    path = world.folder / "store" / key
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def read_parts(world: World, machine: str, snapshot_id: str) -> list[str]:
    return [part.key for part in verified.read(world.store, machine, snapshot_id).parts if part.read]


def test_every_byte_once_and_what_is_damaged_last(world: World, tmp_path: Path) -> None:
    """Some at a time until all was read; then nothing is due by age; a damaged part fails the run, and no other one."""
    parts = taken(world, tmp_path)
    read: list[str] = []
    for _ in range(3):
        read += verify(world.store_name, "1%")["verified"]
    assert read == [OLD, CHILD, OTHER]  # the oldest first, and each once
    assert read_parts(world, world.name, CHILD) == parts[CHILD]  # what is borrowed was read with its own snapshot
    assert verify(world.store_name, "30d")["verified"] == []

    damage(world, parts[OLD][0])
    with pytest.raises(Corrupt, match=f"of 3 snapshots could not be read back: {OLD}: .*{parts[OLD][0]}") as failed:
        verify(world.store_name, "100%")
    (message,) = {each["message"] for each in told(VERIFICATION_FAILED, "snapshot", OLD)}
    assert parts[OLD][0] in message and world.store_name in message
    assert OTHER in failed.value.facts["verified"]  # and the child, unless a chunk it was sampled for lies in that part
    found = [a for a in artifacts("verification") if world.store_name in str(a.description)]
    rows = json.loads(max(found, key=lambda artifact: artifact.created).data)
    assert rows[0]["snapshot"] == OLD and rows[-2]["result"] == "as it was written"


def test_a_part_that_outlived_its_snapshot_is_read_with_another(world: World, tmp_path: Path) -> None:
    """Its own snapshot is in the trash, and is not read any more."""
    parts = taken(world, tmp_path)
    trash.move(world.store, (world.name, OLD))
    assert verify(world.store_name, "100%")["verified"] == [CHILD, OTHER]
    assert sorted(read_parts(world, world.name, CHILD)) == sorted(parts[OLD] + parts[CHILD])
    assert verify(world.store_name, "30d")["verified"] == []


def test_an_unreadable_share_is_refused(world: World) -> None:
    """In one line."""
    for share in ("all", "0%", "101%", ""):
        with pytest.raises(UsageError, match=r"share|duration"):
            verify(world.store_name, share)
