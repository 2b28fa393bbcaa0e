"""What a hibernation refuses because the workspace is not what it was, and how the user insists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import blocks
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.errors import Refused, UsageError
from tests.flows.test_hibernate_and_wake import artifacts
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


def test_a_wake_in_part_keeps_the_machine(world: World) -> None:
    """Also where the machine has forgotten it. Waking all of it onto the same machine, or insisting, helps."""
    world.machine(twenty)
    hibernate(**world.hibernation())
    woken = wake(SNAPSHOT_ID, world.store_name, machine=world.name, include=["1*.txt", "2.txt", "3.txt"])
    with pytest.raises(
        Refused, match=rf"woken only in part \(include\) from snapshot {SNAPSHOT_ID}.*allow_shrink=True"
    ):
        hibernate(world.name, world.store_name)
    for remembered in (world.folder / "machines").glob("**/wake-*.json"):
        remembered.unlink()
    with pytest.raises(Refused, match=r"woken only in part"):
        hibernate(world.name, world.store_name)
    wake(SNAPSHOT_ID, world.store_name, machine=world.name, overwrite=True)
    assert hibernate(world.name, world.store_name)["destroyed"] and not world.provider.exists(woken["instance"])


def test_what_is_refused_before_the_first_byte(world: World, tmp_path: Path) -> None:
    """The machine's root, and a workspace that holds the store."""
    workspace = world.machine(twenty)
    with pytest.raises(UsageError, match="'/': expected an absolute path below the root of the machine"):
        hibernate(world.name, world.store_name, workspace="/")
    blocks.LocalStore(directory=str(workspace / "a" / "store")).save(f"{world.name}-inside")
    (workspace / "a").mkdir()
    with pytest.raises(UsageError, match=r"lies inside the workspace .*, at 'a/store': .*nothing was written"):
        snapshot(world.name, f"{world.name}-inside")
    assert list((workspace / "a").iterdir()) == []
    assert snapshot(world.name, f"{world.name}-inside", exclude=["a"])["totals"]["files"] == 20


def test_what_is_not_kept_is_told_before_the_machine_goes(world: World) -> None:
    """As an artifact, also of a hibernation that is refused then."""
    workspace = world.machine(twenty)
    (workspace / "data").symlink_to(f"/mnt/{world.name}")
    hibernate(world.name, world.store_name, destroy=False)
    shutil.rmtree(workspace)
    workspace.mkdir()
    (workspace / "still").symlink_to(f"/mnt/{world.name}")
    with pytest.raises(Refused, match="there is nothing in"):
        hibernate(world.name, world.store_name)
    told = sorted(str(a.data) for a in artifacts("not-kept") if f"/mnt/{world.name}" in str(a.data))
    assert len(told) == 2 and all("what lies outside of" in each for each in told)
    assert f"data -> /mnt/{world.name}" in told[0] and f"still -> /mnt/{world.name}" in told[1]
