"""The flow that finds machines that bill and that nobody uses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from flows.slots import held_machines, machine_slot
from flows.stages import failed
from poorwill import defaults
from poorwill.control.machine.costs import summed
from poorwill.control.machine.reaping import Finding
from poorwill.errors import PoorwillError, Refused
from poorwill.snapshot import durations
from tasks.events import STILL_BILLING, emit
from tasks.reap import destroy_orphan, survey_machines
from tasks.reports.machine_report import publish_findings

SLOT_WAIT_S = 5.0
"""A machine that a run works on is no orphan: it is not waited for."""


@flow(name="reap", flow_run_name="reap-{provider}", persist_result=False)
def reap(
    provider: str, grace: str = defaults.REAP_GRACE, destroy: bool = False, store: str | None = None
) -> dict[str, Any]:
    """Report every machine that Poorwill created and that may bill, with its price, and destroy the orphans.

    An orphan is a machine that a wake created and nobody was told of: its record says that it was never woken, or
    is gone, no block names it as awake, no run works on it, and it is older than the grace period. A machine that
    was awake once is never destroyed here, even if its block was lost.

    Args:
        provider: Name of a provider block, for example `vast`.
        grace: What is younger is left alone, for example `30m`, `2h` or `1d`.
        destroy: Whether to destroy the orphans. Off: they are only reported.
        store: Name of the only store block whose machines are looked at. Empty: every store block.
    """
    try:
        return _reap(provider, durations.seconds_of(grace), destroy, store)
    except PoorwillError as error:
        return failed(error)


def _reap(provider: str, grace_s: float, destroy: bool, store: str | None) -> dict[str, Any]:
    surveyed = survey_machines(provider, store, grace_s, frozenset(held_machines()))
    findings, unreadable = surveyed.findings, list(surveyed.unreadable)
    publish_findings(provider, findings)
    result = {**_result(provider, findings), "unreadable": unreadable, "destroyed": [], "failed": []}
    for why in unreadable:
        get_run_logger().warning("cannot be read: %s", why)
    if not destroy or unreadable:
        why = "some stores or blocks cannot be read" if destroy else "run reap with destroy=True, or destroy it by hand"
        for finding in findings:
            _tell(provider, finding, why)
    if not destroy:
        return result
    if unreadable:
        raise Refused(f"nothing is destroyed while this cannot be read: {'; '.join(unreadable)}", **result)
    errors = [error for finding in findings if (error := _destroy(provider, store, grace_s, finding, result))]
    if errors:
        names = "; ".join(f"{failure['instance']}: {failure['error']}" for failure in result["failed"])
        message = f"{len(errors)} of {len(errors) + len(result['destroyed'])} could not be destroyed: {names}"
        raise type(errors[0])(message, **result)
    return result


def _destroy(
    provider: str, store: str | None, grace_s: float, finding: Finding, result: dict[str, Any]
) -> PoorwillError | None:
    """Destroy one, and note in `result` what became of it. Returns the error, if it may still be billing."""
    if finding.state not in ("orphan", "gone"):
        return None
    try:
        with machine_slot(finding.machine, wait_s=SLOT_WAIT_S):
            destroy_orphan(provider, store, grace_s, finding)
    except Refused as error:
        get_run_logger().warning("left alone: %s", error.message)
        result["left_alone"].append({"instance": finding.instance, "why": error.message})
        return None
    except PoorwillError as error:
        get_run_logger().error("%s", error.message)
        result["failed"].append({"instance": finding.instance, "error": error.message})
        _tell(provider, finding, error.message)
        return error
    if finding.state == "orphan":
        result["destroyed"].append(finding.instance)
    return None


def _tell(provider: str, finding: Finding, why: str) -> None:
    """Emit an event about an orphan; somebody knows of the machines in other states."""
    if finding.state == "orphan":
        name = finding.machine or finding.instance
        message = f"instance {finding.instance} of {provider}, created for {name}, bills and nobody uses it: {why}"
        emit(STILL_BILLING, "machine", name, message, provider=provider, instance=finding.instance)


def _result(provider: str, findings: list[Finding]) -> dict[str, Any]:
    orphans = [finding for finding in findings if finding.state == "orphan"]
    return {
        "provider": provider,
        "machines": [asdict(finding) for finding in findings],
        "price_per_hour": summed(finding.price_per_hour for finding in findings),
        "orphans": [finding.instance for finding in orphans],
        "orphans_price_per_hour": summed(finding.price_per_hour for finding in orphans),
        "left_alone": [],
    }
