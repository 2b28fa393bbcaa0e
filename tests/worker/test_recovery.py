"""Which runs go back into the queue, and which do not: sweeps over runs in made-up situations, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Pending, Running, Scheduled, State

from tests.worker import jobs
from tests.worker.rig import Rig
from worker.recovery import ATTEMPTS_MAX, WORKER_LABEL, Recovery
from worker.worker_locks import Presence

ME, ALIVE, DEAD = "me 0", "alive 1", "dead 2"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Presence]:
    """This worker and a living one hold their locks; the lock file of the dead one is there, and free."""
    folder = tmp_path / "workers"
    with Presence(folder, ME) as mine, Presence(folder, ALIVE):
        (folder / "dead_2.lock").touch()
        yield mine


def made(rig: Rig, owner: str, *states: State[Any]) -> UUID:
    """A run that went through these states on a worker of that name."""
    run = rig.run(rig.deploy(jobs.at_once))
    if owner:
        asyncio.run(_label(run, owner))
    for state in states:
        rig.client.set_flow_run_state(run, state, force=True)
    return run


async def _label(run: UUID, owner: str) -> None:
    async with get_client() as client:
        await client.update_flow_run_labels(run, {WORKER_LABEL: owner})


def swept(
    rig: Rig, hosts: Presence, *held: UUID, sweepers: int = 1, pending_s: float = 60.0, queue_s: float = 0
) -> None:
    """So many workers sweep, all at once."""

    async def queue_timeout_s(run: FlowRun) -> float | None:
        return queue_s or None

    async def sweep() -> None:
        async with get_client() as client:
            await asyncio.gather(
                *(
                    Recovery(
                        client, rig.pool, ME, hosts, lambda: held, queue_timeout_s, every_s=10, pending_s=pending_s
                    ).sweep()
                    for _ in range(sweepers)
                )
            )

    asyncio.run(sweep())


def test_only_runs_of_workers_that_are_gone_go_back(rig: Rig, hosts: Presence) -> None:
    """Those of a living worker, of this one, of an unknown one, and of none, are left as they are."""
    lost = made(rig, DEAD, Pending(), Running())
    others = [made(rig, owner, Pending(), Running()) for owner in (ALIVE, ME, "of another host 3", "")]
    swept(rig, hosts, others[1])
    assert rig.state(lost) == "SCHEDULED" and f"{DEAD} died" in rig.message(lost)
    assert [rig.state(run) for run in others] == ["RUNNING"] * 4


def test_a_run_that_was_being_cancelled_is_cancelled(rig: Rig, hosts: Presence) -> None:
    """No worker is left that could stop it."""
    run = made(rig, DEAD, Pending(), Running(), Cancelling())
    swept(rig, hosts)
    assert rig.state(run) == "CANCELLED"


def test_a_run_that_was_just_taken_is_given_time(rig: Rig, hosts: Presence) -> None:
    """A pending run names its worker only a moment later; one that stays without a name was lost on the way."""
    runs = [made(rig, owner, Pending()) for owner in ("", DEAD)]
    swept(rig, hosts)
    assert [rig.state(run) for run in runs] == ["PENDING"] * 2
    swept(rig, hosts, pending_s=0)
    assert [rig.state(run) for run in runs] == ["SCHEDULED"] * 2


def test_a_run_that_kills_its_workers_ends(rig: Rig, hosts: Presence) -> None:
    """After ATTEMPTS_MAX attempts it is not given to another one."""
    run = made(rig, DEAD, *[state for _ in range(ATTEMPTS_MAX) for state in (Pending(), Running())])
    assert rig.client.read_flow_run(run).run_count == ATTEMPTS_MAX
    swept(rig, hosts)
    assert rig.state(run) == "CRASHED" and "not tried again" in rig.message(run)


def test_many_sweepers_put_a_run_back_once(rig: Rig, hosts: Presence) -> None:
    """A second sweep would take it from the worker that has begun it meanwhile."""
    run = made(rig, DEAD, Pending(), Running())
    swept(rig, hosts, sweepers=4)
    states = rig.client.read_flow_run_states(run)
    assert [state.name for state in states].count("AwaitingRetry") == 1


def test_a_run_that_waited_too_long_fails(rig: Rig, hosts: Presence) -> None:
    """With a message; a run that was put back by a sweep has begun once, and waits on."""
    past = datetime.now(timezone.utc) - timedelta(seconds=100)
    deployment = rig.deploy(jobs.at_once)
    due = Scheduled(scheduled_time=past)
    late = rig.client.create_flow_run_from_deployment(deployment, parameters={"path": "-"}, state=due).id
    again = made(rig, DEAD, Pending(), Running())
    swept(rig, hosts, queue_s=200)
    assert rig.state(late) == "SCHEDULED" and rig.state(again) == "SCHEDULED"
    swept(rig, hosts, queue_s=50)
    assert rig.state(late) == "FAILED" and "queue_timeout_s" in rig.message(late)
    assert rig.state(again) == "SCHEDULED"
