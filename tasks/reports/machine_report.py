"""Tables of machines in Prefect's UI: offers, machines that bill, replicas, and idle machines."""

from __future__ import annotations

from collections.abc import Sequence

from poorwill.control.machine.costs import shown, summed
from poorwill.control.machine.reaping import Finding
from poorwill.providers.base import Offer
from poorwill.snapshot import durations
from tasks.reports.artifacts import ROWS_MAX, Row, markdown_table, publish_markdown, publish_table


def publish_offers(source: str, offers: Sequence[Offer]) -> None:
    """The machines that a provider offers, cheapest first; the first is marked as what would be rented."""
    rows = [offer_row(offer, number == 0) for number, offer in enumerate(offers)]
    publish_table("wake-offers", rows or [{"chosen": "", "offer": "none fulfils the wish"}], f"Offers of {source}")


def publish_findings(source: str, findings: Sequence[Finding]) -> None:
    """Every machine that bills, and the sum."""
    rows = [finding_row(finding) for finding in findings[:ROWS_MAX]]
    publish_table("machines", [*rows, sum_row(findings)], f"Poorwill's machines of {source}")


def publish_replicas(snapshot_id: str, rows: Sequence[Row], price_per_hour: float) -> None:
    """What became of each replica, as a table and, for people, as text."""
    publish_table("replicas", list(rows), f"Replicas of {snapshot_id}")
    text = replicas_markdown(snapshot_id, rows, price_per_hour)
    publish_markdown("replication", text, f"Replication of {snapshot_id}")


def publish_idleness(rows: Sequence[Row]) -> None:
    """Every machine that is awake: whether it is idle, since when, and what is done about it."""
    nothing = {"machine": "none is awake"}
    publish_table(
        "autosleep", list(rows[:ROWS_MAX]) or [nothing], "Machines that are awake, and whether anybody uses them"
    )


def offer_row(offer: Offer, chosen: bool) -> Row:
    return {
        "chosen": "this one" if chosen else "",
        "offer": offer.id,
        "GPU": f"{offer.gpu_count} x {offer.gpu}" if offer.gpu_count else "none",
        "$ per hour": round(offer.price_per_hour, 4),
        "disk GB": round(offer.disk_gb),
        "region": offer.region,
        "reliability": offer.reliability,
        "Mbit/s down": offer.download_mbps,
        "cores": offer.cores,
        "memory GB": round(offer.memory_gb),
        "spot": "yes" if offer.spot else "",
    }


def finding_row(finding: Finding) -> Row:
    return {
        "instance": finding.instance,
        "machine": finding.machine,
        "state": finding.state,
        "age": "unknown" if finding.age_s is None else durations.rough(finding.age_s),
        "$ per hour": shown(finding.price_per_hour, 4),
        "$ per day": shown(finding.price_per_hour * 24, 2),
        "note": finding.note,
        "label": finding.label,
    }


def sum_row(findings: Sequence[Finding]) -> Row:
    """What all of them cost together."""
    price = summed(finding.price_per_hour for finding in findings)
    counted = {"instance": "all", "machine": "", "state": "", "age": "", "note": f"{len(findings)} rows", "label": ""}
    return {**counted, "$ per hour": round(price, 4), "$ per day": round(price * 24, 2)}


def replicas_markdown(snapshot_id: str, rows: Sequence[Row], price_per_hour: float) -> str:
    awake = sum(row["state"] != "failed" for row in rows)
    return (
        f"# {awake} of {len(rows)} machines are awake from {snapshot_id}\n\n"
        f"What is known to bill: ${price_per_hour:,.3f} an hour, ${price_per_hour * 24:,.2f} a day.\n\n"
        f"{markdown_table(rows[:ROWS_MAX])}\n"
    )
