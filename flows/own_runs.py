"""Runs of deployments that one flow starts and does not wait for: they are nobody's children, and outlive it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from poorwill.errors import NotFound


def start(deployment: str, parameters: dict[str, Any], *, key: str, name: str, tags: Iterable[str]) -> FlowRun:
    """A run of `<flow>/<deployment>`, for which a worker is not waited. The same `key`, the same run, also one that
    has ended. NotFound if there is no such deployment."""
    try:
        # Not as a subflow: cancelling or deleting the flow that started it must not touch it.
        found: Any = run_deployment(
            deployment, parameters=parameters, timeout=0, as_subflow=False,
            idempotency_key=key, flow_run_name=name, tags=list(tags),
        )  # fmt: skip
    except ObjectNotFound:
        raise NotFound(f"there is no deployment {deployment}: deploy the flows first") from None
    return found


def find(run: str) -> FlowRun | None:
    """The run of that id, None if there is none any more."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(UUID(run))
    except (ObjectNotFound, ValueError):
        return None


def withdraw(run: FlowRun, why: str) -> bool:
    """Cancel a run that no worker has begun. False if one has: one that begins just now is cancelled, and may do its
    work all the same."""
    if run.state is None or not run.state.is_scheduled():
        return False
    with get_client(sync_client=True) as client:
        answer = client.set_flow_run_state(run.id, Cancelled(message=why))
        return answer.status == SetStateStatus.ACCEPT and client.read_flow_run(run.id).run_count == 0
