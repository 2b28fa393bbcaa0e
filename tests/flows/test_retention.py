"""Retention against a real Prefect server: what it shows, what it keeps, and what it removes when."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import blocks
from flows.retention import retention
from flows.slots import store_slot
from flows.snapshot import snapshot
from poorwill.control.records import catalog, trash
from poorwill.errors import Refused, UsageError
from tests.flows.test_hibernate_and_wake import artifacts, small
from tests.support.flow_world import SNAPSHOT_ID, World
from tests.support.runs import take, verify
from tests.support.workspaces import aged, noise


def taken(world: World, tmp_path: Path) -> list[str]:
    """A snapshot on each of four days: each has a file of its own, and borrows what the first one sent."""
    days = [f"202601{day:02d}T120000Z-{int(world.name[1:]):04x}{day:04x}" for day in (1, 2, 3, 4)]
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "always").write_bytes(noise(300_000, 1))
    for number, snapshot_id in enumerate(days):
        (workspace / "today").write_bytes(noise(200_000, 2 + number))
        take(
            world.store,
            aged(workspace),
            snapshot_id,
            machine=world.name,
            name=f"day {number}",
            tags=("t",) * (number == 1),
        )
    assert [snapshot_id for _, snapshot_id in catalog.names(world.store)] == days
    return days


def asleep_in(world: World, snapshot_id: str) -> None:
    source = blocks.LocalProvider.load(world.provider_name)
    machine = blocks.Machine(provider=source, name=world.name, status="asleep", snapshot=snapshot_id)
    machine.save(world.name, overwrite=True)


def age_trash(world: World, days: int) -> None:
    """By the store's clock, which is that of its files."""
    for key in world.keys("trash/"):
        then_s = time.time() - days * 86_400
        os.utime(world.folder / "store" / key, (then_s, then_s))


def shown(key: str, store: str) -> Any:
    (artifact,) = [a for a in artifacts(key) if store in str(a.description)]
    return artifact.data


def test_a_dry_run_then_the_trash_then_gone(world: World, tmp_path: Path) -> None:
    """Three runs: nothing changes; metadata moves and can be brought back; bytes go, but for what is still needed."""
    days = taken(world, tmp_path)
    asleep_in(world, days[1])
    before = set(world.keys(""))
    said = retention(world.store_name, keep_last=1)
    assert set(world.keys("")) == before and said["dry_run"]
    assert said["kept"] == {days[3]: ["last snapshot"], days[1]: [f"machine {world.name} is asleep in it"]}
    assert said["going"] == [days[2], days[0]] and said["freed_bytes"] == 0 < said["freed_later_bytes"]
    table = json.loads(shown("retention", world.store_name))
    assert [row["verdict"] for row in table][:3] == ["goes", "goes", "kept: last snapshot"]
    assert table[2]["name"] == "day 3" and table[3]["tags"] == "t"
    assert "dry run: nothing was removed" in shown("retention-summary", world.store_name)

    moved = retention(world.store_name, keep_last=1, dry_run=False)
    assert json.dumps(moved) and moved["going"] == said["going"] and moved["removed"] == []
    assert [owner[1] for owner in catalog.names(world.store)] == [days[1], days[3]]
    assert set(world.keys("parts/")) == {key for key in before if key.startswith("parts/")}
    trash.undelete(world.store, days[2])
    verify(world.store, days[2])
    assert retention(world.store_name, keep_last=1, dry_run=False)["going_count"] == 0  # the newest verified one

    age_trash(world, 3)
    gone = retention(world.store_name, keep_last=1, dry_run=False)
    assert gone["removed"] == [] and gone["freed_bytes"] == 0 < gone["kept_trash_bytes"]
    with pytest.raises(Refused, match="removal of its parts has begun"):
        trash.undelete(world.store, days[0])

    verify(world.store, days[3])
    retention(world.store_name, keep_last=1, dry_run=False)
    age_trash(world, 3)
    gone = retention(world.store_name, keep_last=1, dry_run=False)
    assert gone["removed"] == [days[2]] and gone["freed_bytes"] > 200_000
    assert gone["stored_bytes"] - gone["freed_bytes"] == gone["left_bytes"]
    for _, snapshot_id in list(catalog.names(world.store)):
        verify(world.store, snapshot_id, "full")


def test_each_machine_by_itself_and_costs(world: World, tmp_path: Path) -> None:
    """Only the named machine is judged; the price of storage is that of the store's block."""
    days = taken(world, tmp_path)
    take(world.store, tmp_path / "workspace", "20250101T000000Z-00000001", machine="other")
    block = blocks.LocalStore(directory=str(world.folder / "store"), price_per_gb_month=1000.0)
    block.save(world.store_name, overwrite=True)
    said = retention(world.store_name, machine=world.name, keep_within="36h")
    assert said["kept"] == {days[3]: ["within 1d12h"], days[2]: ["within 1d12h"]}
    assert said["per_month_before"] == pytest.approx(said["stored_bytes"] / 1e6, abs=1e-3)
    assert said["per_month_before"] - said["per_month_after"] == pytest.approx(
        said["freed_later_bytes"] / 1e6, abs=1e-3
    )
    assert said["freed_later_bytes"] > 200_000
    assert retention(world.store_name, machine=world.name, keep_tags=["t"])["kept"][days[1]] == ["tag t"]


def test_snapshots_have_the_names_and_tags_of_their_flow(world: World) -> None:
    """They are in the metadata; an invalid one is refused before anything is touched."""
    world.machine(small)
    with pytest.raises(UsageError, match="is not a tag"):
        snapshot(**world.hibernation(tags=["a b"]))
    assert world.keys("") == []
    snapshot(**world.hibernation(name="before the upgrade", tags=["b", "a"]))
    found = catalog.find(world.store, SNAPSHOT_ID)
    assert (found.name, found.tags) == ("before the upgrade", ("a", "b"))


def test_a_wrong_policy_removes_nothing(world: World, tmp_path: Path) -> None:
    """Nor does an invalid grace period, or metadata that cannot be read."""
    days = taken(world, tmp_path)
    before = set(world.keys(""))
    with pytest.raises(UsageError, match="would keep nothing"):
        retention(world.store_name, dry_run=False)
    with pytest.raises(UsageError, match="not a duration"):
        retention(world.store_name, keep_last=1, grace="soon", dry_run=False)
    path = world.folder / "store" / world.keys("snapshots/")[0]
    path.write_bytes(path.read_bytes().replace(b"workspace", b"workspice", 1))
    with pytest.raises(Refused, match=f"cannot be read: snapshots/{world.name}/{days[0]}"):
        retention(world.store_name, keep_last=1, grace="0s", dry_run=False)
    assert set(world.keys("")) == before


def test_one_removal_at_a_time(world: World) -> None:
    """While one run removes from a store another one is refused after its wait; another store is another slot."""
    with store_slot(world.store), pytest.raises(Refused, match="store-"), store_slot(world.store, wait_s=0.5):
        raise AssertionError("two at once")
    with store_slot(world.store, wait_s=5.0):
        pass  # it was given back
