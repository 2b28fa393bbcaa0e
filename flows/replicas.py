"""What became of the machines of a replication."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flows.wake_run import Request, Target
from poorwill.control.machine.costs import summed
from poorwill.errors import PoorwillError, from_wire
from tasks.provision import still_billing
from tasks.reports.machine_report import publish_replicas


@dataclass(frozen=True, slots=True)
class Replica:
    """One machine: what waking it returned, or its error. `kept`: it was awake from this snapshot before."""

    target: Target
    woken: dict[str, Any] | None = None
    kept: bool = False
    error: PoorwillError | None = None


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
        raise from_wire({"type": type(errors[0]).__name__, "message": message, "facts": result})
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
