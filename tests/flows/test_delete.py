"""The flow `delete` against a real Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.delete import delete
from poorwill.errors import NotFound, Refused, UsageError
from poorwill.snapshot import ids
from tests.flows.test_retention import asleep_in
from tests.support.flow_world import World
from tests.support.runs import take
from tests.support.workspaces import make_large


def test_a_snapshot_that_a_machine_is_asleep_in_is_not_deleted(world: World, tmp_path: Path) -> None:
    """Refused, naming the machine, and nothing changes; with force it goes, all of it."""
    snapshot_id = ids.new_snapshot_id()
    take(world.store, make_large(tmp_path / "w", 1), snapshot_id, machine=world.name)
    asleep_in(world, snapshot_id)
    before = world.keys("")
    with pytest.raises(Refused, match=f"machine {world.name} is asleep in it"):
        delete(world.store_name, snapshot_id)
    assert world.keys("") == before
    assert delete(world.store_name, snapshot_id, force=True)["freed_bytes"] > 0 and world.keys("") == []
    with pytest.raises(NotFound, match=snapshot_id):
        delete(world.store_name, snapshot_id, force=True)
    with pytest.raises(UsageError, match="not a snapshot id"):
        delete(world.store_name, "yesterday")
