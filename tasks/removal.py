"""The steps of removing snapshots: say what a policy keeps, remove the rest, or remove one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from prefect import task

from blocks.lookup import machine_blocks, store_block
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import deletion, live_share, retention
from poorwill.control.removal.live_share import LiveShare
from poorwill.control.removal.purging import Purged
from poorwill.control.removal.retention import Plan
from poorwill.errors import Refused
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.retention_policy import Policy
from tasks import retries

SLEEPING = ("asleep", "waking")


@dataclass(frozen=True, slots=True)
class Planned:
    """What retention would do, the parts that outlived their snapshots, and how many of these were not measured."""

    plan: Plan
    shares: list[LiveShare]
    unmeasured: int


@task(name="plan_retention", **retries.policy())
def plan_retention(store: str, policy: Policy, machine: str | None, grace_s: float, stale_s: float) -> Planned:
    """Judge every snapshot of the store; nothing is removed. UsageError for a policy without a rule.

    Snapshots that machines are asleep in are kept, whatever the policy. UsageError if machine blocks cannot be read.

    `machine` is whose snapshots to judge, as stores know it; None: everybody's. What was removed stays in the trash for
    `grace_s`; pending records older than `stale_s` are reported.
    """
    protected = asleep()
    with closing(store_block(store).open()) as opened:
        holdings = Holdings(opened)
        plan = retention.plan(holdings, policy, grace_s, machine=machine, protected=protected, stale_s=stale_s)
        return Planned(plan, *live_share.live_shares(holdings))


@task(name="apply_retention", **retries.policy())
def apply_retention(store: str, going: list[Owner], grace_s: float) -> Purged:
    """Move these to the trash, and remove for good what has been there for long enough. What is cut off is repeated.

    Refused if one of these has become what a machine is asleep in since it was judged.
    """
    protected = asleep()
    for _, snapshot_id in going:
        if snapshot_id in protected:
            raise Refused(f"snapshot {snapshot_id} is not removed: {protected[snapshot_id]}")
    with closing(store_block(store).open()) as opened:
        return retention.apply(Holdings(opened), going, grace_s)


@task(name="delete_snapshot", **retries.policy())
def delete_snapshot(store: str, snapshot: str, force: bool) -> dict[str, Any]:
    """Remove one snapshot at once. Refused if a machine is asleep in it, or its run has not ended, unless `force`."""
    why = None if force else asleep().get(snapshot)
    if why is not None:
        raise Refused(f"snapshot {snapshot} is not removed: {why}; wake it first, or delete with force")
    with closing(store_block(store).open()) as opened:
        return deletion.delete(opened, snapshot, force=force)


def asleep() -> dict[str, str]:
    """Snapshot id -> why it must be kept, for every machine that is asleep in one or being woken from one."""
    return {
        block.snapshot: f"machine {name} is {'being woken from' if block.status == 'waking' else 'asleep in'} it"
        for name, block in machine_blocks().items()
        if block.snapshot and block.status in SLEEPING
    }
