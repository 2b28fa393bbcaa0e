"""Puts the pool, its queues, the deployments, the blocks and the automations on a Prefect server.

    python -m deployments.registration

on the server that PREFECT_API_URL names. Running it again changes nothing: what exists keeps what an operator has
changed in the UI (parameters, schedules, limits, blocks); what a new version of Poorwill brings is added.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, VariableCreate, VariableUpdate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema

from deployments.automations.apply import FOLDER, apply
from deployments.catalogue import CATALOGUE, DEPLOYMENT, POOL, Deployment, Schedule, schedule_slugs
from deployments.registration import default_blocks
from deployments.registration.gpu_pool import create_pool
from poorwill import __version__
from poorwill.errors import DeadlineExceeded, PoorwillError, UsageError
from poorwill.retry import polls

SWITCHED = "poorwill_schedules"
"""The Prefect variable that remembers which schedules POORWILL_SCHEDULES has switched on: each is switched once."""

_POLL_S = 0.1

Say = Callable[[str], None]


def register(environment: Mapping[str, str], say: Say) -> None:
    """All of it, on the server that this process's Prefect settings name. Idempotent.

    environment: see default_blocks.py, and POORWILL_SCHEDULES. `say` gets a line for each change, and one that begins
    with '! ' for what an operator has to look at. PoorwillError, and what Prefect's client raises.
    """
    wanted = wanted_schedules(environment)
    with get_client(sync_client=True) as client:
        _pool(client, say)
        default_blocks.register(client, environment, say)
        for deployment in CATALOGUE:
            _deploy(client, deployment, say)
        if wanted is not None:
            _switch_schedules(client, wanted, say)
    _automate(environment, say)


def wanted_schedules(environment: Mapping[str, str]) -> frozenset[str] | None:
    """The slugs that POORWILL_SCHEDULES names, None if it is not set. UsageError for one that no deployment has."""
    named = environment.get("POORWILL_SCHEDULES", "").replace(",", " ").split()
    if not named:
        return None
    known = schedule_slugs()
    unknown = sorted(set(named) - {*known, "all", "none"})
    if unknown:
        raise UsageError(
            f"POORWILL_SCHEDULES: '{unknown[0][:60]}' is not a schedule: expected some of {', '.join(known)}, or all, "
            "or none"
        )
    return frozenset(known if "all" in named else named) - {"none"}


def _pool(client: SyncPrefectClient, say: Say) -> None:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        say(f"work pool {POOL}")
    create_pool(POOL)


def _deploy(client: SyncPrefectClient, deployment: Deployment, say: Say) -> None:
    flow: Flow[..., Any] = getattr(importlib.import_module(f"flows.{deployment.module}"), deployment.module)
    name = f"{deployment.flow_name}/{DEPLOYMENT}"
    wanted = _wanted(deployment, flow)
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        limit, options = deployment.limit, None
        if limit is not None:
            options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(limit.collision))
        client.create_deployment(
            client.create_flow_from_name(flow.name),
            DEPLOYMENT,
            work_pool_name=POOL,
            parameters=dict(deployment.parameters),
            job_variables=deployment.job_variables,
            schedules=[_schedule(schedule) for schedule in deployment.schedules],
            concurrency_limit=limit.runs if limit else None,
            concurrency_options=options,
            pull_steps=[],
            **wanted,
        )
        say(f"deployment {name}")
        return
    wanted["tags"] = [*found.tags, *(tag for tag in deployment.tags if tag not in found.tags)]
    changed = [field for field, value in wanted.items() if getattr(found, field) != value]
    if changed:
        _update(client, deployment, found, wanted)
        say(f"deployment {name}: {', '.join(changed)} as of version {__version__}")
    known = {schedule.slug for schedule in found.schedules}
    if new := [_schedule(schedule) for schedule in deployment.schedules if schedule.slug not in known]:
        client.create_deployment_schedules(found.id, new)
        say(f"deployment {name}: schedule {', '.join(str(schedule.slug) for schedule in new)}")


def _wanted(deployment: Deployment, flow: Flow[..., Any]) -> dict[str, Any]:
    """What belongs to this version of Poorwill, and is brought up to date."""
    return {
        "version": __version__,
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": list(deployment.tags),
        "work_queue_name": deployment.queue,
        "parameter_openapi_schema": parameter_schema(flow).model_dump(mode="json", exclude_unset=True),
        "enforce_parameter_schema": True,
    }


def _update(
    client: SyncPrefectClient, deployment: Deployment, found: DeploymentResponse, wanted: dict[str, Any]
) -> None:
    parameters, job_variables = dict(found.parameters or {}), dict(found.job_variables or {})
    if found.version != __version__:  # within a version, what an operator took away stays away
        parameters = {**deployment.parameters, **parameters}
        job_variables = {**deployment.job_variables, **job_variables}
    # A parameter that this version no longer has would make every run of the deployment fail.
    known = wanted["parameter_openapi_schema"].get("properties", {})
    kept = {name: value for name, value in parameters.items() if name in known}
    change = DeploymentUpdate(work_pool_name=POOL, parameters=kept, job_variables=job_variables, **wanted)
    client.update_deployment(found.id, change)


def _schedule(schedule: Schedule) -> DeploymentScheduleCreate:
    fields = {"schedule": schedule.when, "active": False, "slug": schedule.slug, "parameters": schedule.parameters}
    return DeploymentScheduleCreate.model_validate(fields)


def _switch_schedules(client: SyncPrefectClient, wanted: frozenset[str], say: Say) -> None:
    """Switch what the setting names now and did not the last time, or the other way round; an operator's own switches
    in the UI are left as they are."""
    variable = client.read_variable_by_name(SWITCHED)
    value = variable.value if variable is not None else []
    before = frozenset(map(str, value)) if isinstance(value, list) else frozenset[str]()
    if wanted == before:
        return
    for deployment in CATALOGUE:
        if not {schedule.slug for schedule in deployment.schedules} & (wanted ^ before):
            continue
        found = client.read_deployment_by_name(f"{deployment.flow_name}/{DEPLOYMENT}")
        for schedule in found.schedules:
            active = schedule.slug in wanted
            if schedule.slug in wanted ^ before and schedule.active != active:
                client.update_deployment_schedule(found.id, schedule.id, active=active)
                say(f"schedule {schedule.slug} {'on' if active else 'off'}, as POORWILL_SCHEDULES says")
    if variable is None:
        client.create_variable(VariableCreate(name=SWITCHED, value=sorted(wanted)))
    else:
        client.update_variable(VariableUpdate(name=SWITCHED, value=sorted(wanted)))


def _automate(environment: Mapping[str, str], say: Say) -> None:
    """The automations in the folder POORWILL_AUTOMATIONS, else those of Poorwill."""
    own = environment.get("POORWILL_AUTOMATIONS", "").strip()
    for change in apply(Path(own).expanduser() if own else FOLDER, environment):
        if change.what in ("created", "updated"):
            say(f"{change.kind} {change.name}" + (", brought up to date" if change.what == "updated" else ""))


def wait_for_server(timeout_s: float) -> None:
    """Until the server answers. DeadlineExceeded if it does not in time."""
    with get_client(sync_client=True) as client:
        for _ in polls(_POLL_S, timeout_s):
            if (error := client.api_healthcheck()) is None:
                return
        raise DeadlineExceeded(
            f"the Prefect server at {client.api_url} does not answer ({type(error).__name__}): start it, or correct "
            "PREFECT_API_URL"
        )


def main(argv: list[str] | None = None) -> int:
    """Register on the server of this process's Prefect settings. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.registration", description="Deploy everything to a Prefect server."
    )
    parser.add_argument("--wait", type=int, default=0, metavar="S", help="wait up to S seconds for the server")
    parser.add_argument("--lines", action="store_true", help="print only what was made or changed, a line each")
    options = parser.parse_args(argv)
    changes = 0

    def say(line: str) -> None:
        nonlocal changes
        changes += not line.startswith("!")
        print(line if options.lines else f"  {'' if line.startswith('!') else '+ '}{line}", flush=True)

    try:
        if not PREFECT_API_URL.value():
            raise UsageError("PREFECT_API_URL is not set: set it to the API of a Prefect server, http://host:4200/api")
        wait_for_server(options.wait)
        register(os.environ, say)
    except PoorwillError as error:
        print(f"registration: {error.message}", file=sys.stderr)
        return error.exit_code
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        hint = ": set PREFECT_API_AUTH_STRING to the server's" if code in (401, 403) else ""
        print(f"registration: the Prefect server answered {code} to {error.request.url.path}{hint}", file=sys.stderr)
        return 1
    if not options.lines:
        print(f"{changes} things were made or changed" if changes else "everything is there: nothing was changed")
    return 0
