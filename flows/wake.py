"""The flow that wakes a machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from blocks.lookup import store_block
from flows.stages import failed, threads
from flows.wake_run import Request, outcome, plan, resolve, wake_target
from poorwill import defaults
from poorwill.errors import PoorwillError
from poorwill.providers.base import Wish, checked_path
from poorwill.snapshot import limits
from poorwill.snapshot.order import RestoreOrder


@flow(name="wake", task_runner=threads(limits.PARTS), flow_run_name="wake-{snapshot}", persist_result=False)
def wake(
    snapshot: str,
    store: str,
    machine: str | None = None,
    provider: str | None = None,
    gpu: str | None = None,
    gpu_count: Annotated[int, Field(ge=1)] | None = None,
    region: str | None = None,
    price_per_hour_max: Annotated[float, Field(gt=0)] | None = None,
    disk_gb: Annotated[int, Field(ge=1)] | None = None,
    workspace: str = defaults.WORKSPACE,
    include: Sequence[str] = (),
    overwrite: bool = False,
    start_command: str | None = None,
    download_mbps_min: Annotated[float, Field(gt=0)] | None = None,
    reliability_min: Annotated[float, Field(ge=0, le=1)] | None = None,
    spot: bool = False,
    dry_run: bool = False,
    cache: str | None = None,
) -> dict[str, Any]:
    """Restore a snapshot onto a new machine, or onto one that exists, every hash checked.

    A wake that was cut off is continued by another one of the same snapshot: it adopts the machine. One that had ended
    is already done, unless `overwrite` is set.

    Args:
        snapshot: Id of a snapshot, `latest` of the machine given below, or `latest:` and a machine's name.
        store: Name of a store block, for example `weights`.
        machine: Name of a machine's block. Awake: restore onto it. Asleep: a new instance is created for it.
            Empty: a new machine, which gets the name the snapshot's machine had.
        provider: Name of a provider block, for a new machine. Empty: the provider the machine had.
        gpu: Model of GPU a new machine must have.
        gpu_count: How many GPUs a new machine must have. Empty: one, if the snapshot needs a GPU.
        region: Where a new machine must be.
        price_per_hour_max: What a new machine may cost, in US dollars.
        disk_gb: Disk a new machine must have, in GB. Empty: a fifth more than the snapshot's data, and 10 GB for
            the machine's image.
        workspace: Where to restore to: a directory on the machine.
        include: Globs of what to restore. Empty: everything.
        overwrite: Whether files that are on the machine may be replaced. Those that are equal are kept, and only
            what differs is downloaded.
        start_command: Shell command to run in the workspace afterwards, for example to start services.
        download_mbps_min: Bandwidth a new machine must have, in megabits per second, for example 500.
        reliability_min: How reliable a new machine must be, from 0 to 1 as its provider counts, for example 0.98.
        spot: Whether a new machine may be one that the provider can take away, for less money.
        dry_run: Only say what would be done, and show the machines that could be had with their prices.
        cache: A directory on the machine, for example on a disk that several machines share, where what was
            downloaded before is looked for first, and what is downloaded is kept; up to 100 GB.
    """
    try:
        wish = Wish(
            gpu, gpu_count, region, price_per_hour_max, disk_gb, download_mbps_min, reliability_min, spot
        ).check()
        order = RestoreOrder(checked_path(workspace), tuple(include), overwrite, cache=cache)
        request = Request(store, provider, wish, order, start_command)
        with closing(store_block(store).open()) as opened:
            target = resolve(opened, snapshot, machine, provider)
        return plan(request, target) if dry_run else outcome(wake_target(request, target))
    except PoorwillError as error:
        return failed(error)
