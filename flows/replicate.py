"""The flow that wakes one snapshot on many machines."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from blocks.lookup import block_name_of, machine_if_any, store_block
from flows.stages import failed, threads
from flows.wake_run import Request, Target, check_host, plan, resolve_as, snapshot_id_of, wake_target
from poorwill import defaults
from poorwill.control.machine.costs import summed
from poorwill.control.records import catalog
from poorwill.errors import EngineFailed, PoorwillError
from poorwill.providers.base import Wish, checked_path
from poorwill.snapshot import ids, limits
from poorwill.snapshot.order import RestoreOrder
from tasks.provision import still_billing
from tasks.reports.machine_report import publish_replicas

AT_ONCE_MAX = 16
COUNT_MAX = 64


@dataclass(frozen=True, slots=True)
class Replica:
    """One machine: what waking it returned, or its error. `kept`: it was awake from this snapshot before."""

    target: Target
    woken: dict[str, Any] | None = None
    kept: bool = False
    error: PoorwillError | None = None


@flow(name="replicate", flow_run_name="replicate-{snapshot}", persist_result=False)
def replicate(
    snapshot: str,
    store: str,
    count: Annotated[int, Field(ge=1, le=COUNT_MAX)],
    name: str = "",
    provider: str | None = None,
    gpu: str | None = None,
    gpu_count: Annotated[int, Field(ge=1)] | None = None,
    region: str | None = None,
    price_per_hour_max: Annotated[float, Field(gt=0)] | None = None,
    disk_gb: Annotated[int, Field(ge=1)] | None = None,
    workspace: str = defaults.WORKSPACE,
    include: Sequence[str] = (),
    start_command: str | None = None,
    download_mbps_min: Annotated[float, Field(gt=0)] | None = None,
    reliability_min: Annotated[float, Field(ge=0, le=1)] | None = None,
    spot: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Wake one snapshot on several new machines at once, `<name>-1`, `<name>-2` and so on.

    Each fails alone: the others go on, and the summary says which are awake, what failed and why, and what bills.
    Begun again, it keeps the machines that are awake from this snapshot and tries the others again.

    Args:
        snapshot: Id of a snapshot, or `latest:` and a machine's name.
        store: Name of a store block, for example `weights`.
        count: How many machines, at most 64; 16 of them are woken at once.
        name: What the machines' names begin with. Empty: the name the snapshot's machine had.
        provider: Name of a provider block. Empty: the providers the machines had, if all of them have a block.
        gpu: Model of GPU the machines must have.
        gpu_count: How many GPUs each machine must have. Empty: one, if the snapshot needs a GPU.
        region: Where the machines must be.
        price_per_hour_max: What each machine may cost, in US dollars.
        disk_gb: Disk each machine must have, in GB. Empty: a fifth more than the snapshot's data, and 10 GB for
            the machine's image.
        workspace: Where to restore to: a directory on each machine.
        include: Globs of what to restore. Empty: everything.
        start_command: Shell command to run in each workspace afterwards, for example to start services.
        download_mbps_min: Bandwidth each machine must have, in megabits per second, for example 500.
        reliability_min: How reliable each machine must be, from 0 to 1 as its provider counts, for example 0.98.
        spot: Whether the machines may be ones that the provider can take away, for less money.
        dry_run: Only say what would be done, and show the machines that could be had with their prices.
    """
    try:
        wish = Wish(
            gpu, gpu_count, region, price_per_hour_max, disk_gb, download_mbps_min, reliability_min, spot
        ).check()
        request = Request(store, provider, wish, RestoreOrder(checked_path(workspace), tuple(include)), start_command)
        targets = _targets(request, snapshot, name, count)
        if dry_run:
            return plan(request, targets[0], count)
        return summary(targets[0].snapshot_id, request, _all(request, targets))
    except PoorwillError as error:
        return failed(error)


def _targets(request: Request, snapshot: str, name: str, count: int) -> list[Target]:
    with closing(store_block(request.store).open()) as opened:
        snapshot_id = snapshot_id_of(opened, snapshot, name or None)
        metadata = catalog.find(opened, snapshot_id)
    stem = name or metadata.machine
    machines = [ids.checked_machine_name(f"{stem}-{number}") for number in range(1, count + 1)]
    targets = [resolve_as(metadata, block_name_of(machine), machine, request.provider) for machine in machines]
    check_host(targets)
    return targets


def _all(request: Request, targets: list[Target]) -> list[Replica]:
    """Every replica's end, in their order; at most AT_ONCE_MAX are worked on."""
    with ThreadPoolExecutor(AT_ONCE_MAX, thread_name_prefix="replica") as threads:
        # Each in a copy of this run's context: so Prefect knows the runs started in it as this one's children.
        begun = [threads.submit(contextvars.copy_context().run, _one, request, target) for target in targets]
        try:
            return [future.result() for future in begun]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _one(request: Request, target: Target) -> Replica:
    try:
        kept = _awake_already(target)
        woken = kept or wake_replica(target.name, target.machine, target.snapshot_id, request)
        return Replica(target, woken, bool(kept))
    except PoorwillError as error:
        return Replica(target, error=error)
    except Exception as error:  # of one replica: it must not hide what became of the others
        return Replica(target, error=EngineFailed(f"{type(error).__name__}: {error}"[:500]))


def _awake_already(target: Target) -> dict[str, Any] | None:
    """What a wake would have returned of a machine that is awake from this snapshot; None if it is not."""
    block = machine_if_any(target.name)
    if block is None or (block.status, block.snapshot) != ("awake", target.snapshot_id) or not block.instance:
        return None
    provider = block.provider.open()
    if not provider.exists(block.instance):
        return None
    return {"instance": block.instance, "price_per_hour": provider.get(block.instance).price_per_hour}


@flow(name="replica", task_runner=threads(limits.PARTS), flow_run_name="replica-{name}", persist_result=False)
def wake_replica(name: str, machine: str, snapshot_id: str, request: Request) -> dict[str, Any]:
    """One of the machines, as a run of its own in Prefect's UI. `machine`: the name its snapshots are kept under."""
    try:
        with closing(store_block(request.store).open()) as opened:
            metadata = catalog.find(opened, snapshot_id)
        return wake_target(request, resolve_as(metadata, name, machine, request.provider))
    except PoorwillError as error:
        return failed(error)


def summary(snapshot_id: str, request: Request, replicas: list[Replica]) -> dict[str, Any]:
    """The result of a replication, published as artifacts. Raises, naming each that failed, unless all are awake.

    The error's facts hold the same result.
    """
    rows = [_row(request, replica) for replica in replicas]
    price_per_hour = sum(float(row["$ per hour"]) for row in rows)
    publish_replicas(snapshot_id, rows, price_per_hour)
    failed = {row["machine"]: row["note"] for row in rows if row["state"] == "failed"}
    awake = [row["machine"] for row in rows if row["state"] != "failed"]
    result = {
        "snapshot_id": snapshot_id,
        "count": len(replicas),
        "awake": awake,
        "kept": [row["machine"] for row in rows if row["state"] == "kept"],
        "failed": failed,
        "machines": rows,
        "price_per_hour": price_per_hour,
    }
    errors = [replica.error for replica in replicas if replica.error is not None]
    if errors:
        each = "; ".join(f"{name}: {why}" for name, why in failed.items())
        message = (
            f"{len(errors)} of {len(rows)} machines are not awake: {each}. Awake: {', '.join(awake) or 'none'}; "
            f"all that bills costs ${price_per_hour:.3f} an hour"
        )
        raise type(errors[0])(message, **result)
    return result


def _row(request: Request, replica: Replica) -> dict[str, Any]:
    if replica.woken is not None:
        state, note = ("kept", "was awake already") if replica.kept else ("awake", "")
        instance, price = replica.woken["instance"], float(replica.woken["price_per_hour"])
    else:
        instance, price, bills = _left_over(request, replica.target)
        state, note = "failed", f"{replica.error.message if replica.error else 'no reason'}{bills}"
    name = replica.target.name
    return {"machine": name, "state": state, "instance": instance, "$ per hour": round(price, 4), "note": note}


def _left_over(request: Request, target: Target) -> tuple[str, float, str]:
    """(instances, their price per hour, what to say) of a replica that failed."""
    try:
        left = still_billing(target.name, target.machine, request.store, request.provider)
    except PoorwillError as error:
        return "", 0.0, f"; what bills for it is not known ({error.message})"
    names = ", ".join(instance.id for instance in left)
    return names, summed(instance.price_per_hour for instance in left), f"; {names} bills" if left else ""
