"""Runs of deployments that a flow starts and does not wait for: they are no subflows, and outlive it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from poorwill.errors import NotFound


def start(deployment: str, parameters: dict[str, Any], *, key: str, name: str, tags: Iterable[str]) -> FlowRun:
    """Create a run of `<flow>/<deployment>` for a worker to take. NotFound if there is no such deployment.

    Idempotent by `key`: the same key returns the same run, even if that has ended.
    """
    try:
        # Not as a subflow: cancelling or deleting the flow that started it must not touch it.
        run = run_deployment(
            deployment, parameters=parameters, timeout=0, as_subflow=False,
            idempotency_key=key, flow_run_name=name, tags=list(tags),
        )  # fmt: skip
    except ObjectNotFound:
        raise NotFound(f"there is no deployment {deployment}: deploy the flows first") from None
    return cast("FlowRun", run)  # a coroutine only where an event loop runs


def find(run: str) -> FlowRun | None:
    """The run of that id, None if it is gone."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(run))
    except (ObjectNotFound, ValueError):
        return None


def withdraw(run: FlowRun, why: str) -> bool:
    """Cancel a run that no worker has begun. False if one has.

    A run that begins at this moment is cancelled too, but may do its work all the same.
    """
    if run.state is None or not run.state.is_scheduled():
        return False
    with get_client(sync_client=True) as client:
        state: State[Any] = Cancelled(message=why)
        answer = client.set_flow_run_state(run.id, state)
        return answer.status == SetStateStatus.ACCEPT and client.read_flow_run(run.id).run_count == 0
