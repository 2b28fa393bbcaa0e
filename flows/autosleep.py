"""The flow that puts machines to sleep that nobody uses."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.autosleep_run import AT_ONCE_MAX, Request, judge_machines
from flows.stages import failed, threads
from poorwill import defaults
from poorwill.control.machine.idleness import Limits
from poorwill.errors import PoorwillError
from poorwill.providers.base import checked_path
from poorwill.snapshot import durations


@flow(name="autosleep", task_runner=threads(AT_ONCE_MAX), flow_run_name="autosleep", persist_result=False)
def autosleep(
    store: str,
    idle: str = defaults.IDLE_AFTER,
    dry_run: bool = True,
    machine: str | None = None,
    workspace: str = defaults.WORKSPACE,
    gpu_percent_max: Annotated[float, Field(ge=0, le=100)] = 5.0,
    gpus_held_max: Annotated[int, Field(ge=0)] = 0,
    logins_max: Annotated[int, Field(ge=0)] = 0,
    clients_max: Annotated[int, Field(ge=0)] = 0,
    terminal_quiet_s_min: Annotated[float, Field(ge=0)] = 600.0,
    network_kib_per_s_max: Annotated[float, Field(ge=0)] = 100.0,
    cpu_cores_max: Annotated[float, Field(ge=0)] = 0.5,
    window_s: Annotated[float, Field(gt=0, le=10)] = 2.0,
) -> dict[str, Any]:
    """Ask each machine that is awake what goes on there, and hibernate those that were idle for too long.

    Meant to be scheduled, every ten minutes or so. What cannot be asked, or is not known, counts as used: such a
    machine is reported, and left alone. A machine's own `idle_after`, in its block, goes before `idle`.

    Args:
        store: Name of the store block that machines are hibernated into, for example `weights`.
        idle: For how long a machine may be idle, for example `30m` or `2h`.
        dry_run: Only say what would be done. Since when machines are idle is remembered all the same.
        machine: Name of the only machine's block to look at. Empty: every machine that is awake.
        workspace: What hibernate keeps: a directory on the machines.
        gpu_percent_max: Utilisation up to which a GPU counts as idle.
        gpus_held_max: How many GPUs may be held by processes that do nothing, like a server with its model loaded.
        logins_max: How many SSH sessions an idle machine may have, besides our own.
        clients_max: How many connections from elsewhere to its other servers, like a notebook's, it may have.
        terminal_quiet_s_min: Since when, in seconds, nothing may have been typed or shown on a terminal.
        network_kib_per_s_max: Traffic up to which it counts as idle, in KiB/s, both ways, loopback apart.
        cpu_cores_max: How many cores may be busy.
        window_s: For how long to look, in seconds.
    """
    try:
        limits = Limits(
            gpu_percent_max=gpu_percent_max,
            gpus_held_max=gpus_held_max,
            logins_max=logins_max,
            clients_max=clients_max,
            terminal_quiet_s_min=terminal_quiet_s_min,
            network_kib_per_s_max=network_kib_per_s_max,
            cpu_cores_max=cpu_cores_max,
        )
        request = Request(
            store, durations.seconds_of(idle), dry_run, machine, checked_path(workspace), limits, window_s
        )
        return judge_machines(request)
    except PoorwillError as error:
        return failed(error)
