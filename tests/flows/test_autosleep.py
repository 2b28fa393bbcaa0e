"""Machines that nobody uses, on a real Prefect server: which are put to sleep, once, and which are left alone.

The host of these machines is this one, where other tests work: limits are set so wide or so narrow that they decide.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed
from prefect.variables import Variable

import blocks
from blocks.lookup import machine_blocks, save_machine
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from flows import started_runs
from flows.autosleep import autosleep
from flows.autosleep_run import Request, left_alone
from flows.hibernate import hibernate
from flows.slots import machine_slot
from poorwill.control.machine.idleness import Limits, Watch
from poorwill.control.removal import deletion
from poorwill.errors import NotFound, Refused
from poorwill.providers.base import Wish
from tasks import idle_watch
from tests.flows.test_machines import newest
from tests.support.flow_world import World
from tests.support.runs import take

ALL, NONE = 10**6, 0
WIDE = {
    "gpu_percent_max": 100, "gpus_held_max": ALL, "logins_max": ALL, "clients_max": ALL, "terminal_quiet_s_min": 0,
    "network_kib_per_s_max": 10**9, "cpu_cores_max": ALL, "window_s": 0.01,
}  # fmt: skip
NARROW = {**WIDE, "cpu_cores_max": 0, "window_s": 0.2}
HOUR_S = 3600.0
POOL = "autosleep-pool"


@pytest.fixture(scope="module")
def fleet(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A machine that is awake, and hibernate deployed to a pool without a worker. Made once, as blocks cost seconds."""
    create_pool(POOL)
    deploy(hibernate, pool=POOL)
    made = World(prefect_server, tmp_path_factory.mktemp("fleet"), "sleepy")
    made.machine(lambda workspace: None)
    return made


@pytest.fixture
def world(fleet: World) -> World:
    """Nobody has looked at its machine yet."""
    with get_client(sync_client=True) as client:
        for run in hibernations(fleet):
            client.delete_flow_run(run.id)
    if Variable.get(idle_watch.variable_name(fleet.name)) is not None:
        Variable.unset(idle_watch.variable_name(fleet.name))
    return fleet


def sleep(world: World, **given: Any) -> dict[str, Any]:
    """One run of the flow over the world's machine. Returns its row, with the whole result as `result`."""
    result = autosleep(**{"store": world.store_name, "machine": world.name, "dry_run": False, **WIDE, **given})
    (row,) = result["machines"]
    return {**row, "result": result}


def hibernations(world: World) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200)
    return [run for run in runs if run.name == f"hibernate-{world.name}"]


def watched_for(world: World, idle_s: float) -> Watch:
    """As runs of the flow leave it that have seen the machine idle for so long, the last one a minute ago."""
    now_s = time.time()
    found = idle_watch.read(world.name)
    assert found is not None
    watch = replace(found, seen_s=now_s - 60, idle_since_s=now_s - idle_s)
    idle_watch.write(world.name, watch)
    return watch


def test_an_idle_machine_is_put_to_sleep_once(world: World) -> None:
    """Idle for too long since an earlier look: one run of hibernate, however many autosleeps there are."""
    first = sleep(world, idle="1h")
    assert (first["state"], first["due"], first["idle_s"], first["done"]) == ("idle", False, 0, "nothing")

    watch = watched_for(world, HOUR_S + 1)
    said = sleep(world, idle="1h", dry_run=True)
    assert said["due"] and "would be hibernated" in said["done"] and not hibernations(world)
    done = sleep(world, idle="1h")
    (run,) = hibernations(world)
    assert done["run"] == str(run.id) and done["result"]["hibernating"] == [world.name]
    assert run.state is not None and run.state.name == "Scheduled" and run.parent_task_run_id is None
    assert run.parameters == {
        "machine": world.name, "instance": first["instance"], "store": world.store_name, "workspace": "/workspace",
        "writers": "stop",
    }  # fmt: skip

    idle_watch.write(world.name, watch)  # as a second scheduler has it that read before the first one wrote
    assert sleep(world, idle="1h")["run"] == str(run.id) and len(hibernations(world)) == 1
    row = newest("autosleep")[0]
    assert (row["machine"], row["state"], row["may idle for"]) == (world.name, "idle", "1h")


def waiting(world: World, instance: str) -> FlowRun:
    """A hibernation that was started for that instance, and waits for a worker."""
    key, parameters = f"{world.name}-{instance}", {"machine": world.name, "store": world.store_name}
    run = started_runs.start("hibernate/poorwill", parameters, key=key, name=f"hibernate-{world.name}", tags=[])
    now_s = time.time()
    idle_watch.write(world.name, Watch(instance, now_s, now_s - HOUR_S, "", 0.0, 0.0, run=str(run.id)))
    return run


def states(world: World) -> list[str]:
    return sorted(run.state.name for run in hibernations(world) if run.state is not None)


def test_a_machine_in_use_again_is_not_hibernated(world: World) -> None:
    """The hibernation that waits for a worker is cancelled, also that of an earlier instance of the machine."""
    waiting(world, world.block().instance)
    used = sleep(world, **NARROW)
    assert used["state"] == "active" and "cores busy" in used["why"] and "was cancelled" in used["done"]
    assert states(world) == ["Cancelled"] and used["result"]["hibernating"] == []

    waiting(world, "another")
    assert sleep(world, idle="1h")["idle_s"] == 0 and states(world) == ["Cancelled"] * 2


def test_a_failed_hibernation_starts_the_idle_time_anew(world: World) -> None:
    """It is reported, and another one is started only after the machine was idle for as long again."""
    run = waiting(world, world.block().instance)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Failed(message="Refused: files changed"), force=True)
    told = sleep(world, idle="0s")
    assert "ended as Failed: Refused: files changed" in told["done"] and not told["due"]
    assert sleep(world, idle="0s")["due"] and states(world) == ["Failed", "Scheduled"]


def test_an_unreachable_machine_is_left_alone(world: World) -> None:
    """It is reported, the hibernation that waits is cancelled, and the idle time so far does not count."""
    block, kept = world.block(), world.block().instance
    waiting(world, "local-0123456789ab")
    block.instance = "local-0123456789ab"
    save_machine(world.name, block)
    try:
        gone = sleep(world, idle="0s")
    finally:
        block.instance = kept
        save_machine(world.name, block)
    assert gone["state"] == "unreachable" and "wake it again" in gone["why"]
    assert gone["result"]["unreachable"] == [world.name] and states(world) == ["Cancelled"]
    watch = idle_watch.read(world.name)
    assert watch is not None and watch.idle_since_s is None


@pytest.mark.parametrize(
    ("fields", "state", "why"),
    [
        ({}, None, ""),
        ({"idle_after": " 2H "}, None, ""),
        ({"idle_after": "Never"}, "left alone", "idle_after is never"),
        ({"idle_after": "30 minutes"}, "left alone", "idle_after: '30 minutes' is not a duration"),
        ({"status": "waking"}, "waking", "wake it again"),
        ({"status": "asleep"}, "asleep", "in snapshot s-1"),
        ({"instance": ""}, "asleep", "in snapshot s-1"),
        ({"name": "busy"}, "held", "another run works on it"),
        ({"provider": blocks.OwnMachines()}, "left alone", "never destroyed"),
    ],
)
def test_machines_that_are_not_asked(fields: dict[str, Any], state: str | None, why: str) -> None:
    """And why."""
    given = {"provider": blocks.LocalProvider(root="/m"), "instance": "i", "snapshot": "s-1", "name": "m", **fields}
    row = left_alone("m", blocks.Machine(**given), Request("s", 60.0, False, None, "/w", Limits(), 1.0), {"busy"})
    assert (row.state if row is not None else None) == state and why in (row.why if row is not None else "")


def test_all_machines_at_once(world: World) -> None:
    """Each by its own policy, and one that a run works on is not touched."""
    for other in machine_blocks():
        if other != world.name:  # of a test that is over
            blocks.Machine.delete(other)
    source, instance = blocks.LocalProvider.load(world.provider_name), world.provider.create("by-hand", Wish()).id
    blocks.Machine(provider=source, instance=instance, idle_after="2h").save("slow")
    with machine_slot(world.name):
        result = autosleep(store=world.store_name, idle="0s", dry_run=True, **WIDE)
    rows = {row["machine"]: row for row in result["machines"]}
    assert {name: row["state"] for name, row in rows.items()} == {world.name: "held", "slow": "idle"}
    assert rows["slow"]["idle_after_s"] == 7200 and result["idle"] == []
    blocks.Machine.delete("slow")


def test_autosleep_keeps_the_directory_of_the_newest_snapshot(world: World, tmp_path: Path) -> None:
    """A machine whose newest snapshot is of another directory is not hibernated, which would lose that directory. With
    machine= and workspace= it is."""
    (tmp_path / "elsewhere").mkdir()
    taken = take(world.store, tmp_path / "elsewhere", machine=world.name)
    try:
        for dry_run in (True, False):
            with pytest.raises(Refused, match=r"snapshot is of .*/elsewhere, and /workspace would be kept"):
                sleep(world, idle="0s", dry_run=dry_run)
        assert not hibernations(world)
        workspace = world.workspace(world.block().instance)
        (workspace.parent / "elsewhere").mkdir()
        assert sleep(world, idle="0s", workspace="/elsewhere")["run"]
    finally:
        deletion.delete(world.store, taken.id, threads=1)


def test_a_hibernation_of_another_instance_is_refused(world: World) -> None:
    """One that waited until the machine was another instance touches nothing."""
    with pytest.raises(Refused, match=f"is instance {world.block().instance} now, and another was meant"):
        hibernate(**world.hibernation(instance="another"))
    assert world.provider.exists(world.block().instance) and not world.keys("")


def test_a_missing_store_or_deployment_fails_the_run(world: World) -> None:
    """A missing store at once; a missing deployment after all machines were judged."""
    with pytest.raises(NotFound, match="no store block named 'nowhere'"):
        sleep(world, store="nowhere")
    with get_client(sync_client=True) as client:  # the last test here: nobody needs it any more
        client.delete_deployment(client.read_deployment_by_name("hibernate/poorwill").id)
    with pytest.raises(Refused, match=rf"1 idle machines still bill.*{world.name}: there is no deployment"):
        sleep(world, idle="0s")
