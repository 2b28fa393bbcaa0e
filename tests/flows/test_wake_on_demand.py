"""Runs that wait wake a machine, once; and what prevents a wake, on a real Prefect server without any worker."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.states import Failed, Running

import blocks
from blocks.lookup import save_machine
from deployments.automations.apply import FOLDER
from deployments.automations.files import read
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from flows.wake import wake
from flows.wake_on_demand import WORKER_LABEL, obstacle, wake_on_demand
from poorwill.errors import NotFound, Refused
from tests.support.flow_world import World
from tests.support.runs import take
from tests.worker.jobs import at_once

POOL, QUEUE = "demand-pool", "generate"
QUIET_S = 1.0
POLL_S = 0.1


@pytest.fixture(scope="module")
def job(prefect_server: object) -> UUID:
    """A deployment that needs a GPU, in a pool without a worker, beside that of wake."""
    create_pool(POOL)
    deploy(wake, pool=POOL)
    return deploy(at_once, pool=POOL, gpus=1)


@pytest.fixture(scope="module")
def sleeper(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, job: UUID) -> tuple[World, str]:
    """A machine that sleeps, and its snapshot. Made once, as blocks cost seconds."""
    folder = tmp_path_factory.mktemp("sleeper")
    made = World(prefect_server, folder, "dreamy")
    (folder / "workspace").mkdir()
    (folder / "workspace" / "file").write_bytes(b"weights")
    source = blocks.LocalProvider.load(made.provider_name)
    save_machine(made.name, blocks.Machine(provider=source, status="asleep", name=made.name))
    return made, take(made.store, folder / "workspace", machine=made.name).id


@pytest.fixture
def world(sleeper: tuple[World, str]) -> World:
    """Nobody has woken its machine yet."""
    with get_client(sync_client=True) as client:
        for run in wakes(sleeper[0]):
            client.delete_flow_run(run.id)
    return sleeper[0]


@pytest.fixture
def asleep(sleeper: tuple[World, str]) -> str:
    """The snapshot."""
    return sleeper[1]


@pytest.fixture
def waiting(job: UUID) -> Iterator[list[FlowRun]]:
    """Three runs that wait in the queue."""
    with get_client(sync_client=True) as client:
        runs = [client.create_flow_run_from_deployment(job, parameters={"path": "/nowhere"}) for _ in range(3)]
        yield runs
        for run in runs:
            client.delete_flow_run(run.id)


def ask(world: World, **given: Any) -> dict[str, Any]:
    fixed = {"machine": world.name, "store": world.store_name, "pool": POOL, "worker_quiet_s": QUIET_S}
    return dict(wake_on_demand(**{**fixed, **given}))


def wakes(world: World) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return [run for run in client.read_flow_runs(limit=200) if run.name == f"wake-{world.name}"]


def end(run: str | None, message: str) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(str(run)), Failed(message=message), force=True)


def test_late_runs_wake_a_machine_once(world: World, asleep: str, waiting: list[FlowRun]) -> None:
    """One wake of the latest snapshot for all that wait; another one only when it has failed, and not for ever."""
    first = ask(world, gpu="RTX 4090", price_per_hour_max=0.5, start_command="./work")
    assert first["woken"] and first["waiting"] == 3
    (run,) = wakes(world)
    assert run.state is not None and run.state.name == "Scheduled" and str(run.id) == first["run"]
    assert run.parameters == {
        "snapshot": asleep, "store": world.store_name, "machine": world.name, "workspace": "/workspace",
        "gpu": "RTX 4090", "price_per_hour_max": 0.5, "start_command": "./work",
    }  # fmt: skip
    again = ask(world)
    assert not again["woken"] and "is under way" in again["why"] and len(wakes(world)) == 1

    end(first["run"], "no offer")
    second = ask(world, failures_max=2)
    assert second["woken"] and len(wakes(world)) == 2
    end(second["run"], "no offer at 0.50")
    with pytest.raises(Refused, match=rf"2 wakes of snapshot {asleep} failed .*: no offer.*wake machine {world.name}"):
        ask(world, failures_max=2)


@contextmanager
def polling() -> Iterator[None]:
    """As a worker looks at the queue."""
    over, polled = threading.Event(), threading.Event()

    def poll() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(POLL_S):
                client.request(
                    "POST", "/work_pools/{name}/get_scheduled_flow_runs", path_params={"name": POOL},
                    json={"work_queue_names": [QUEUE], "limit": 1},
                )  # fmt: skip
                polled.set()

    # Prefect's settings belong to a context, which a thread does not take over by itself.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(poll,))
    thread.start()
    try:
        assert polled.wait(20)
        yield
    finally:
        over.set()
        thread.join()


def test_no_wake_while_a_worker_takes_the_runs(world: World, asleep: str, waiting: list[FlowRun]) -> None:
    """A worker that polls the queue, or is busy with another run of it; but not one that has just gone, or died."""
    with polling():
        assert "a worker that looks at the queue" in ask(world, worker_quiet_s=30)["why"]
    busy, run = f"gpu {uuid4().hex[:8]}", waiting[0]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.id, Running(), force=True)
        client.update_flow_run_labels(run.id, {WORKER_LABEL: busy})
        client.request("POST", "/work_pools/{name}/workers/heartbeat", path_params={"name": POOL}, json={"name": busy})
        assert f"worker {busy}, which is busy" in ask(world)["why"] and not wakes(world)
        client.update_flow_run_labels(run.id, {WORKER_LABEL: "lost"})
    done = ask(world)  # after a second in which nobody looks
    assert done["woken"] and done["waiting"] == 2


def test_no_wake_without_waiting_runs_or_a_snapshot(world: World, asleep: str, job: UUID) -> None:
    """No run waits; and a machine that was never put to sleep."""
    assert ask(world)["why"] == "no run waits" and not wakes(world)
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(job, parameters={"path": "/nowhere"})
        world.store.delete(f"snapshots/{world.name}/{asleep}.json")  # the last test that needs it
        with pytest.raises(NotFound, match=f"no snapshot of machine {world.name}"):
            ask(world)
        client.delete_flow_run(run.id)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": "asleep"}, ""),
        ({"status": "awake", "instance": ""}, ""),
        ({"status": "awake", "instance": "i"}, "is awake: start a worker on it"),
        ({"status": "waking", "instance": "i"}, "is being woken"),
        ({"status": "asleep", "name": "busy"}, "another run works on machine"),
    ],
)
def test_machines_that_cannot_be_woken(fields: dict[str, Any], why: str) -> None:
    """And why."""
    block = blocks.Machine(**{"provider": blocks.LocalProvider(root="/m"), "name": "m", **fields})
    found = obstacle("m", block, {"busy"})
    assert why in found and bool(why) == bool(found)


def late(flow: str, deployment: str = "poorwill", event: str = "prefect.flow-run.Late") -> ReceivedEvent:
    related = [
        {"prefect.resource.id": f"prefect.flow.{uuid4()}", "prefect.resource.role": "flow",
         "prefect.resource.name": flow},
        {"prefect.resource.id": f"prefect.deployment.{uuid4()}", "prefect.resource.role": "deployment",
         "prefect.resource.name": deployment},
    ]  # fmt: skip
    resource = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}
    return ReceivedEvent(event=event, resource=resource, related=related, payload={}, id=uuid4(), occurred="2026-01-01")


def test_the_automation() -> None:
    """It is skipped without its variables, off at first, and fires for late runs of generate alone."""
    path = FOLDER / "wake-on-demand.yaml"
    assert [each.core for each in read(path, lambda what: None)] == [None]
    known = {"POORWILL_WAKE_MACHINE": "trainer", "POORWILL_WAKE_STORE": "weights"}
    deployment = str(uuid4())
    (planned,) = read(path, lambda what: known.get(what, deployment if what.startswith("deployment:") else None))
    assert planned.core is not None and not planned.core.enabled
    (action,) = planned.core.model_dump(mode="json")["actions"]
    assert action["deployment_id"] == deployment
    assert action["parameters"] == {"machine": "trainer", "store": "weights"}
    trigger = EventTrigger.model_validate(planned.core.trigger.model_dump(mode="json"))
    assert trigger.within.total_seconds() == 600
    assert trigger.covers(late("generate"))
    assert not trigger.covers(late("hibernate"))
    assert not trigger.covers(late("generate", deployment="mine"))
    assert not trigger.covers(late("generate", event="prefect.flow-run.Scheduled"))
