"""What a wake would do: nothing is created, and what it would cost is shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_table_artifact

from flows.wake_run import Request, Target
from poorwill.control.snapshot import needs
from tasks.reports.machine_report import publish_offers


def plan(request: Request, target: Target, count: int = 1) -> dict[str, Any]:
    """The plan of waking `count` machines, as artifacts and a result. `choice` is what would be rented: the cheapest.

    `price_per_hour` is of all machines, if all were to be had like the cheapest: they cost that or more. Errors of
    the provider.
    """
    opened = target.source.open()
    wish = target.suited(request.wish)
    offers = [] if target.instance else opened.offers(wish)
    choice = offers[0] if offers else None
    planned = {
        "snapshot_id": target.snapshot_id,
        "machine": target.name,
        "would": _would(target, opened.describe(), len(offers), count),
        "workspace": request.workspace,
        "disk_gb": wish.disk_gb,
        "files": target.metadata["totals"]["files"],
        "raw_bytes": target.metadata["totals"]["raw_bytes"],
        "stored_bytes": target.metadata["totals"]["stored_bytes"],
        "parts": len(target.metadata["parts"]),
        "needs": [need.text for need in needs.of(target.metadata)],
        "start_command": request.start_command,
        "price_per_hour": choice.price_per_hour * count if choice is not None else 0.0,
    }
    rows = [{"what": name, "value": str(value)} for name, value in planned.items()]
    create_table_artifact(table=rows, key="wake-plan", description=f"Dry run: waking {target.snapshot_id}")
    if not target.instance:
        publish_offers(opened.describe(), offers)
    return {
        **planned,
        "choice": asdict(choice) if choice is not None else None,
        "offers": [asdict(offer) for offer in offers],
        "dry_run": True,
    }


def _would(target: Target, source: str, offers: int, count: int) -> str:
    if target.instance:
        return f"restore onto {target.instance}" + (f", if it has {target.needed()}" if target.needed() else "")
    machines = "a machine" if count == 1 else f"{count} machines"
    having = f" with {target.needed()}" if target.needed() else ""
    return f"create {machines} at {source}{having}" + ("" if offers else ", which offers none that fulfils the wish")
