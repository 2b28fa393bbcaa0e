"""The commands that remove snapshots, by policy or one by one, and bring them back."""

from __future__ import annotations

import argparse

from poorwill.cli.output import Output
from poorwill.control.records import trash
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import deletion
from poorwill.control.removal import retention as control
from poorwill.control.removal.purging import Purged
from poorwill.control.removal.retention import STALE_S, Plan, Verdict
from poorwill.errors import Refused
from poorwill.remote.base import Host
from poorwill.snapshot import durations, ids
from poorwill.snapshot.retention_policy import COUNTS, Policy
from poorwill.snapshot.sizes import human
from poorwill.store.address import open_store


def retention(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    rules = {name: getattr(arguments, f"keep_{name}") for name in COUNTS}
    within_s = durations.seconds_of(arguments.keep_within) if arguments.keep_within else 0
    policy = Policy(**rules, within_s=within_s, tags=tuple(arguments.keep_tag)).check()
    grace_s = durations.seconds_of(arguments.grace)
    holdings = Holdings(open_store(arguments.store))
    plan = control.plan(holdings, policy, grace_s, machine=arguments.machine)
    for verdict in plan.verdicts:
        output.event(
            "snapshot", machine=verdict.owner[0], snapshot_id=verdict.owner[1], name=verdict.name,
            tags=list(verdict.tags), kept=bool(verdict.reasons), reasons=list(verdict.reasons),
            freed_bytes=verdict.freed_bytes,
        )  # fmt: skip
        output.lines([_line(verdict)])
    output.lines(_notes(plan))
    if not arguments.dry_run and plan.unreadable:
        raise Refused(f"nothing is removed while this cannot be read: {'; '.join(plan.unreadable[:10])}")
    done = Purged() if arguments.dry_run else control.apply(holdings, plan.going, grace_s)
    verb = "would go" if arguments.dry_run else "went"
    output.done(
        f"{len(plan.going)} of {len(plan.verdicts)} snapshots {verb} to the trash, which frees "
        f"{human(plan.freed_later_bytes)} in {durations.as_text(grace_s)}; {human(done.freed_bytes)} freed now",
        {
            "kept": len(plan.verdicts) - len(plan.going), "going": len(plan.going), "removed": len(done.removed),
            "freed_bytes": done.freed_bytes, "freed_later_bytes": plan.freed_later_bytes,
            "unused_bytes": sum(plan.unused.values()), "uploads_aborted": done.uploads_aborted,
        },
        dry_run=arguments.dry_run,
    )  # fmt: skip
    return 0


def delete(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    result = deletion.delete(open_store(arguments.store), arguments.id, force=arguments.force)
    kept = len(result["kept_parts"])
    note = f"; {kept} of its parts are used by other snapshots and stay" if kept else ""
    output.done(f"snapshot {arguments.id} deleted{note}", {"freed_bytes": result["freed_bytes"]}, **result)
    return 0


def undelete(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    metadata = trash.undelete(open_store(arguments.store), ids.checked_snapshot_id(arguments.id))
    output.done(
        f"snapshot {arguments.id} of {metadata.machine} is back", {},
        snapshot_id=arguments.id, machine=metadata.machine,
    )  # fmt: skip
    return 0


def _line(verdict: Verdict) -> str:
    verb = f"kept: {', '.join(verdict.reasons)}" if verdict.reasons else f"goes, {human(verdict.freed_bytes)}"
    return f"{verdict.owner[1]:26} {verdict.owner[0]:20} {verb}" + (f"  ({verdict.name})" if verdict.name else "")


def _notes(plan: Plan) -> list[str]:
    notes = [f"cannot be read: {what}" for what in plan.unreadable[:10]]
    if plan.unused:
        shown = ", ".join(sorted(snapshot_id for _, snapshot_id in plan.unused)[:10])
        notes.append(
            f"{human(sum(plan.unused.values()))} in parts of tries that were cut off, which their own snapshots do not "
            f"use and retention frees: {shown}"
        )
    for (machine, snapshot_id), age_s in list(plan.stale.items())[:10]:
        notes.append(
            f"the run of snapshot {snapshot_id} of {machine} has not ended for {durations.rough(age_s)} (more than "
            f"{durations.as_text(STALE_S)}) and keeps its parts: run it to its end, or delete it with --force"
        )
    return notes
