"""What retention shows in Prefect's UI: a table of the snapshots that are kept or removed, and a summary."""

from __future__ import annotations

from poorwill.control.machine.costs import per_month
from poorwill.control.removal.live_share import SMALL_SHARE, LiveShare
from poorwill.control.removal.retention import Plan, Verdict
from poorwill.snapshot import durations
from poorwill.snapshot.sizes import human
from tasks.removal import Planned
from tasks.reports.artifacts import ROWS_MAX, Row, best_effort, publish_markdown, publish_table

LISTED_MAX = 50


def publish_retention(store: str, planned: Planned, grace_s: float, price_per_gb_month: float, dry_run: bool) -> None:
    """As artifacts of the current run."""
    verb = "would keep and remove" if dry_run else "keeps and removes"
    with best_effort("the report of retention"):
        publish_table("retention", rows(planned.plan), f"What retention {verb} in {store}")
        text = markdown(store, planned, grace_s, price_per_gb_month, dry_run)
        publish_markdown("retention-summary", text, f"Retention of {store}")


def rows(plan: Plan) -> list[Row]:
    """Removed snapshots first, then those that are kept; at most ROWS_MAX, and a last row with the sums."""
    ordered = sorted(plan.verdicts, key=lambda verdict: bool(verdict.reasons))
    kept = sum(bool(verdict.reasons) for verdict in plan.verdicts)
    shown = [row_of(verdict) for verdict in ordered[:ROWS_MAX]]
    note = f"{kept} kept, {len(ordered) - kept} go" + ("; not all are shown" if len(ordered) > ROWS_MAX else "")
    freed = sum(verdict.freed_bytes for verdict in plan.verdicts)
    sums = {"snapshot": "all", "machine": "", "name": "", "tags": "", "verdict": note, "data": ""}
    return [*shown, {**sums, "own parts": human(plan.stored_bytes), "frees": human(freed)}]


def row_of(verdict: Verdict) -> Row:
    return {
        "snapshot": verdict.owner[1],
        "machine": verdict.owner[0],
        "name": verdict.name or "",
        "tags": " ".join(verdict.tags),
        "verdict": f"kept: {', '.join(verdict.reasons)}" if verdict.reasons else "goes",
        "data": human(verdict.raw_bytes),
        "own parts": human(verdict.own_bytes),
        "frees": "" if verdict.reasons else human(verdict.freed_bytes),
    }


def markdown(store: str, planned: Planned, grace_s: float, price_per_gb_month: float, dry_run: bool) -> str:
    """The summary: bytes and cost before and after, what waits, and what holds on to parts."""
    plan = planned.plan
    cost = [f"${per_month(count, price_per_gb_month):,.2f}" for count in (plan.stored_bytes, plan.left_bytes)]
    grace = durations.as_text(grace_s)
    lines = [
        f"# Retention of {store}{' (dry run: nothing was removed)' if dry_run else ''}",
        "",
        "| | bytes | $ per month |",
        "|---|---|---|",
        f"| stored before | {human(plan.stored_bytes)} | {cost[0]} |",
        f"| freed by this run, from the trash and of tries that were cut off | {human(plan.freed_now_bytes)} | |",
        f"| freed when {grace} in the trash are over | {human(plan.freed_later_bytes)} | |",
        f"| stored then | {human(plan.left_bytes)} | {cost[1]} |",
        "",
        f"{len(plan.going)} snapshots go to the trash, from where they can be brought back for {grace} "
        f"(`poorwill undelete`). {len(plan.in_trash)} are there already, {len(plan.expired)} have been there for long "
        f"enough; other snapshots need {human(plan.kept_bytes)} of them, which stay. {len(plan.abandoned)} were never "
        f"committed and abandoned; {human(sum(plan.unused.values()))} are parts of tries that were cut off, which "
        f"{len(plan.unused)} snapshots do not use.",
        "",
        *_held(plan),
        *_small(planned.shares, planned.unmeasured),
    ]
    return "\n".join(lines) + "\n"


def _held(plan: Plan) -> list[str]:
    if not plan.stale:
        return []
    why = "Each keeps the parts it may need. Run it again to its end, or give it up: `poorwill delete --force`."
    runs = [f"- {name} of {machine}, for {durations.rough(age_s)}" for (machine, name), age_s in plan.stale.items()]
    return ["## Runs that never ended", "", why, "", *runs[:LISTED_MAX], ""]


def _small(shares: list[LiveShare], unmeasured: int) -> list[str]:
    small = [share for share in shares if share.share < SMALL_SHARE]
    if not small and not unmeasured:
        return []
    why = (
        f"Less than {SMALL_SHARE:.0%} of these is needed. Parts are not repacked: each goes when the last snapshot "
        f"that needs it goes. {unmeasured} more parts of removed snapshots were not measured."
    )
    parts = [
        f"- `{each.key}`: {human(each.live_bytes)} of {human(each.part_bytes)}, {each.share:.0%}" for each in small
    ]
    return ["## Parts that are hardly needed any more", "", why, "", *parts[:LISTED_MAX]]
