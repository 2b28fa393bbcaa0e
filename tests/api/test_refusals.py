"""What a hibernation refuses because the workspace is not what it was, as the HTTP API and the program tell it, and how
one insists there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.servers.prefect_server import PrefectServer
from flows.hibernate import hibernate
from flows.snapshot import snapshot
from flows.wake import wake
from poorwill.snapshot.shrinkage import HOW_TO_INSIST
from tests.support.flow_world import World
from tests.support.machines_gateway import MachinesGateway
from tests.support.program import poorwill
from tests.support.ssh_machines import KeyPair
from tests.worker.rig import Rig

Change = Callable[[World, Path], str]


def nothing(world: World, workspace: Path) -> str:
    shutil.rmtree(workspace)
    workspace.mkdir()
    return "there is nothing in "


def half(world: World, workspace: Path) -> str:
    for path in sorted(workspace.iterdir())[:12]:
        path.unlink()
    return " 8 are left"


def woken_in_part(world: World, workspace: Path) -> str:
    taken = hibernate(world.name, world.store_name)
    wake(taken["snapshot_id"], world.store_name, machine=world.name, include=["1*"])
    return "was woken only in part (include) from snapshot "


def another_directory(world: World, workspace: Path) -> str:
    """The one of before has another path in its snapshot."""
    shutil.copytree(workspace, workspace.parent / "before")
    snapshot(world.name, world.store_name, workspace="/before")
    return "it is of /workspace, and snapshot "


@pytest.fixture(scope="module")
def rig(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One worker for the whole file, whose lane stays warm."""
    built = Rig(prefect_server, tmp_path_factory.mktemp("refusals"), "refusals")
    built.deploy(hibernate)
    built.worker()
    yield built
    built.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "change",
    [half, *(pytest.param(one, marks=pytest.mark.long) for one in (nothing, woken_in_part, another_directory))],
)
def test_a_hibernation_that_is_refused(rig: Rig, ssh_keys: KeyPair, tmp_path: Path, change: Change) -> None:
    """The error has the reason, that the machine bills, and the words for flows, API and command line; insisting in the
    API destroys the machine. The program exits with 6, and with 0 when it is told to."""
    world = World(rig.server, tmp_path, f"refused-{change.__name__.replace('_', '-')}")
    workspace = world.machine(twenty)
    snapshot(world.name, world.store_name)
    said = change(world, workspace)
    gateway = MachinesGateway(tmp_path, ssh_keys, rig.pool)
    instance = world.block().instance

    async def refused(client: httpx.AsyncClient) -> None:
        told = await asleep(client, world)
        assert told["status"] == "failed" and told["error"]["type"] == "Refused", told
        check(told["error"]["message"], said, instance)

    gateway.run(refused, wait_s_max=120, store=world.store_name)
    env = {"PREFECT_API_URL": rig.server.api_url, "PREFECT_API_AUTH_STRING": "", "PREFECT_UI_URL": ""}
    command = ["hibernate", world.name, "--store", world.store_name]
    ran = poorwill(*command, env=env)
    assert ran.code == 6 and world.provider.exists(instance)
    check(ran.err, said, instance)

    if change is half:
        assert poorwill(*command, "--allow-shrink", env=env).code == 0
    else:

        async def meant(client: httpx.AsyncClient) -> None:
            assert (await asleep(client, world, allow_shrink=True))["status"] == "done"

        gateway.run(meant, wait_s_max=120, store=world.store_name)
    assert not world.provider.exists(instance)


def twenty(workspace: Path) -> None:
    for number in range(20):
        (workspace / f"{number}.txt").write_text(f"{number}\n" * 1000)


def check(message: str, said: str, instance: str) -> None:
    assert said in message and f"instance {instance} of machine " in message
    assert "was not destroyed and goes on billing" in message and HOW_TO_INSIST in message


async def asleep(client: httpx.AsyncClient, world: World, **asked: Any) -> dict[str, Any]:
    """The answer once the run is over."""
    path = f"/api/instances/{world.name}/hibernate?wait=120"
    answer = await client.post(path, json={"workspace_path": "/workspace", "destroy_after": True, **asked})
    return dict(answer.json())
