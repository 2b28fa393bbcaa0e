"""The flow that wakes a machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from blocks.lookup import store_block
from flows.stages import failed
from flows.waking import Request, Target, resolve, wake_target
from poorwill.errors import PoorwillError
from poorwill.providers.base import Wish, checked_path
from poorwill.snapshot import limits


@flow(
    name="wake",
    task_runner=ThreadPoolTaskRunner(max_workers=limits.PARTS),
    flow_run_name="wake-{snapshot}",
    persist_result=False,
)
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
    workspace: str = "/workspace",
    include: Sequence[str] = (),
    overwrite: bool = False,
    start_command: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Restore a snapshot onto a new machine, or onto one that exists, every hash checked.

    A wake that was cut off is continued by another one of the same snapshot: it adopts the machine.

    Args:
        snapshot: Id of a snapshot, `latest` of the machine given below, or `latest:` and a machine's name.
        store: Name of a store block, for example `weights`.
        machine: Name of a machine's block. Awake: restore onto it. Asleep: a new instance is created for it.
            Empty: a new machine, which gets the name the snapshot's machine had.
        provider: Name of a provider block, for a new machine. Empty: the provider the machine had.
        gpu: Model of GPU a new machine must have.
        gpu_count: How many GPUs a new machine must have.
        region: Where a new machine must be.
        price_per_hour_max: What a new machine may cost, in US dollars.
        disk_gb: Disk a new machine must have, in GB.
        workspace: Where to restore to: a directory on the machine.
        include: Globs of what to restore. Empty: everything.
        overwrite: Whether files that are on the machine may be replaced.
        start_command: Shell command to run in the workspace afterwards, for example to start services.
        dry_run: Only say what would be done.
    """
    try:
        wish = Wish(gpu, gpu_count, region, price_per_hour_max, disk_gb).check()
        request = Request(store, provider, wish, workspace, tuple(include), overwrite, start_command)
        checked_path(workspace)
        with closing(store_block(store).open()) as opened:
            target = resolve(opened, snapshot, machine, provider)
        return _plan(request, target) if dry_run else wake_target(request, target)
    except PoorwillError as error:
        state: Any = failed(error)
        return state


def _plan(request: Request, target: Target) -> dict[str, Any]:
    """What would be done, as an artifact and a result; nothing is created."""
    plan = {
        "snapshot_id": target.snapshot_id,
        "machine": target.name,
        "would": f"restore onto {target.instance}" if target.instance else f"create a machine at {target.source}",
        "workspace": request.workspace,
        "files": target.metadata["totals"]["files"],
        "raw_bytes": target.metadata["totals"]["raw_bytes"],
        "stored_bytes": target.metadata["totals"]["stored_bytes"],
        "parts": len(target.metadata["parts"]),
        "needs": list(target.metadata["needs"]),
        "start_command": request.start_command,
    }
    rows = [{"what": name, "value": str(value)} for name, value in plan.items()]
    create_table_artifact(table=rows, key="wake-plan", description=f"Dry run: waking {target.snapshot_id}")
    return {**plan, "dry_run": True}
