"""The flow that wakes a machine when work waits for it."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.demand import Demand, Request, answer
from flows.stages import failed
from poorwill.errors import PoorwillError
from poorwill.providers.base import Wish, checked_path


@flow(name="wake-on-demand", flow_run_name="wake-on-demand-{machine}", persist_result=False)
def wake_on_demand(
    machine: str,
    store: str,
    pool: str = "gpu",
    queue: str = "generate",
    provider: str | None = None,
    gpu: str | None = None,
    gpu_count: Annotated[int, Field(ge=1)] | None = None,
    region: str | None = None,
    price_per_hour_max: Annotated[float, Field(gt=0)] | None = None,
    disk_gb: Annotated[int, Field(ge=1)] | None = None,
    workspace: str = "/workspace",
    start_command: str | None = None,
    worker_quiet_s: Annotated[float, Field(gt=0, le=600)] = 30.0,
    failures_max: Annotated[int, Field(ge=1, le=20)] = 3,
) -> dict[str, Any]:
    """Wake a machine from its latest snapshot if runs wait in the queue and no worker takes them; else say why not.

    Meant to be started by an automation when a run is late, and by a schedule for what that missed. However often it
    is started at once, the machine is woken once.

    Args:
        machine: Name of the block of a machine that sleeps, for example `trainer`.
        store: Name of the store block that holds its snapshots, for example `weights`.
        pool: The work pool whose runs wait.
        queue: The queue of that pool whose runs need the machine.
        provider: Name of a provider block, for the new instance. Empty: the provider the machine had.
        gpu: Model of GPU it must have.
        gpu_count: How many GPUs it must have. Empty: one, if the snapshot needs a GPU.
        region: Where it must be.
        price_per_hour_max: What it may cost, in US dollars.
        disk_gb: Disk it must have, in GB. Empty: as much as the snapshot needs.
        workspace: Where to restore to: a directory on the machine.
        start_command: Shell command to run in the workspace once it is awake: it has to start a worker of the pool.
        worker_quiet_s: A queue that no worker has looked at for so long has none.
        failures_max: After so many wakes of a snapshot that failed within six hours no other is tried.
    """
    try:
        wish = Wish(gpu, gpu_count, region, price_per_hour_max, disk_gb).check()
        chosen = {
            "provider": provider, "gpu": wish.gpu, "gpu_count": wish.gpu_count, "region": wish.region,
            "price_per_hour_max": wish.price_per_hour_max, "disk_gb": wish.disk_gb, "start_command": start_command,
        }  # fmt: skip
        given = {name: value for name, value in chosen.items() if value is not None}
        demand = Demand(pool, queue, worker_quiet_s)
        return answer(Request(machine, store, demand, {**given, "workspace": checked_path(workspace)}, failures_max))
    except PoorwillError as error:
        state: Any = failed(error)
        return state
