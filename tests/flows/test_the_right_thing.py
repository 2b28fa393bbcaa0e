"""What a hibernation refuses because the workspace is not what it was, and how the user insists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.errors import Refused
from tests.support.flow_world import SNAPSHOT_ID, World


def twenty(workspace: Path) -> None:
    for number in range(20):
        (workspace / f"{number}.txt").write_text(f"{number}\n" * 1000)


def test_a_workspace_that_lost_its_files_keeps_its_machine(world: World) -> None:
    """The snapshot is committed and verified, and the machine stays until the user says that it is meant."""
    workspace = world.machine(twenty)
    full = snapshot(world.name, world.store_name)
    shutil.rmtree(workspace)
    workspace.mkdir()
    instance = world.block().instance
    with pytest.raises(Refused, match=rf"nothing in .*{instance} .*goes on billing.*allow_shrink=True"):
        hibernate(world.name, world.store_name)
    (workspace / "left.txt").write_text("all that is left\n")
    with pytest.raises(Refused, match=rf"of 20 files in snapshot {full['snapshot_id']} 1 are left"):
        hibernate(**world.hibernation())
    assert world.provider.exists(instance) and world.block().status == "awake"

    # The same run again, with the word: what was packed and read back is not done anew.
    done = hibernate(**world.hibernation(allow_shrink=True))
    assert done["destroyed"] and done["snapshot_id"] == SNAPSHOT_ID and not world.provider.exists(instance)


def test_another_directory_keeps_the_machine(world: World) -> None:
    """Also on a machine that was woken, whose directory on this host is another one each time."""
    world.machine(twenty)
    hibernate(**world.hibernation())
    woken = wake(SNAPSHOT_ID, world.store_name, provider=world.provider_name, machine=world.name)
    workspace = world.workspace(woken["instance"])
    shutil.copytree(workspace, workspace.parent / "other")
    with pytest.raises(Refused, match=rf"it is of /other, and snapshot {SNAPSHOT_ID} is of /workspace"):
        hibernate(world.name, world.store_name, workspace="/other")
    assert hibernate(world.name, world.store_name, workspace="/workspace/", allow_shrink=True)["destroyed"]
