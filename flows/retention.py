"""The flow that removes snapshots by policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from blocks.lookup import store_block
from flows.slots import store_slot
from flows.stages import failed
from poorwill import defaults
from poorwill.control.machine.costs import per_month
from poorwill.control.removal.live_share import SMALL_SHARE
from poorwill.control.removal.purging import Purged
from poorwill.errors import PoorwillError, Refused
from poorwill.snapshot import durations
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.retention_policy import COUNT_MAX, Policy
from tasks.removal import Planned, apply_retention, plan_retention
from tasks.reports.removal_report import publish_retention

LISTED_MAX = 1000
Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]


@flow(name="retention", flow_run_name="retention-{store}", persist_result=False)
def retention(
    store: str,
    machine: str | None = None,
    keep_last: Count = 0,
    keep_hourly: Count = 0,
    keep_daily: Count = 0,
    keep_weekly: Count = 0,
    keep_monthly: Count = 0,
    keep_yearly: Count = 0,
    keep_within: str = "",
    keep_tags: Sequence[str] = (),
    grace: str = defaults.TRASH_GRACE,
    dry_run: bool = True,
    stale: str = defaults.STALE_AFTER,
) -> dict[str, Any]:
    """Keep the snapshots that a policy names. The others go to the trash, and for good after a grace period.

    Each rule counts for every machine by itself, and what one of them keeps is kept. A machine's newest snapshot, its
    newest verified one, and the one it is asleep in are always kept. Run it on a schedule: it is a later run that frees
    the bytes. At least one rule has to be given.

    Args:
        store: Name of a store block, for example `weights`.
        machine: Only judge the snapshots of this machine, by the name that stores know. Empty: all machines.
        keep_last: How many of the newest to keep.
        keep_hourly: For how many hours to keep the newest snapshot of each; hours without one do not count.
        keep_daily: The same for days, in UTC.
        keep_weekly: The same for weeks, which begin on Monday.
        keep_monthly: The same for months.
        keep_yearly: The same for years.
        keep_within: Keep what is at most so much older than the machine's newest, for example `14d`.
        keep_tags: Keep what has one of these tags.
        grace: How long removed snapshots can be brought back, for example `48h`. It has to be longer than a wake
            takes: one that is under way when its snapshot is removed goes on reading that.
        dry_run: Only say what would be done.
        stale: Report runs that have been taking a snapshot for longer than this; each keeps its parts.
    """
    try:
        within_s = durations.seconds_of(keep_within) if keep_within else 0
        policy = Policy(
            keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, within_s, tuple(keep_tags)
        ).check()
        return _retain(store, policy, machine, durations.seconds_of(grace), durations.seconds_of(stale), dry_run)
    except PoorwillError as error:
        return failed(error)


def _retain(
    store: str, policy: Policy, machine: str | None, grace_s: float, stale_s: float, dry_run: bool
) -> dict[str, Any]:
    block = store_block(store)
    with closing(block.open()) as opened, store_slot(opened):
        planned = plan_retention(store, policy, machine, grace_s, stale_s)
        publish_retention(store, planned, grace_s, block.price_per_gb_month, dry_run)
        for unreadable in planned.plan.unreadable:
            get_run_logger().warning("cannot be read: %s", unreadable)
        if planned.plan.unreadable and not dry_run:
            raise Refused(f"nothing is removed while this cannot be read: {'; '.join(planned.plan.unreadable[:10])}")
        purged = None if dry_run else apply_retention(store, planned.plan.going, grace_s)
    return _result(store, planned, purged, block.price_per_gb_month)


def _result(store: str, planned: Planned, purged: Purged | None, price: float) -> dict[str, Any]:
    """As JSON. Lists have at most LISTED_MAX entries; the counts are of all."""
    plan, done = planned.plan, purged or Purged()
    kept = {verdict.owner[1]: list(verdict.reasons) for verdict in plan.verdicts if verdict.reasons}
    small = [share for share in planned.shares if share.share < SMALL_SHARE]
    return {
        "store": store,
        "dry_run": purged is None,
        "kept_count": len(kept),
        "going_count": len(plan.going),
        "kept": dict(list(kept.items())[:LISTED_MAX]),
        "going": _ids(plan.going),
        "in_trash_count": len(plan.in_trash),
        "expired_count": len(plan.expired),
        "abandoned_count": len(plan.abandoned),
        "stale_runs": _ids(plan.stale),
        "unreadable": plan.unreadable[:LISTED_MAX],
        "unused_bytes": {snapshot_id: size for (_, snapshot_id), size in islice(plan.unused.items(), LISTED_MAX)},
        "stored_bytes": plan.stored_bytes,
        "freed_now_bytes": plan.freed_now_bytes,
        "freed_later_bytes": plan.freed_later_bytes,
        "left_bytes": plan.left_bytes,
        "kept_trash_bytes": plan.kept_bytes,
        "per_month_before": round(per_month(plan.stored_bytes, price), 4),
        "per_month_after": round(per_month(plan.left_bytes, price), 4),
        "small_share_parts": [asdict(share) for share in small[:LISTED_MAX]],
        "unmeasured_parts": planned.unmeasured,
        "freed_bytes": done.freed_bytes,
        "removed": _ids(done.removed),
        "abandoned_removed": _ids(done.abandoned),
        "uploads_aborted": done.uploads_aborted,
    }


def _ids(owners: Iterable[Owner]) -> list[str]:
    return [snapshot_id for _, snapshot_id in islice(owners, LISTED_MAX)]
