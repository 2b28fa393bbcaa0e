"""The flow that reads snapshots back again and again."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from blocks.lookup import store_block
from flows.stages import failed
from poorwill.cli.output import human
from poorwill.control.records import catalog
from poorwill.control.removal.rotation import Share
from poorwill.errors import Corrupt, NotFound, PoorwillError, Unsupported
from poorwill.snapshot import durations
from tasks.events import VERIFICATION_FAILED, emit
from tasks.read_back import choose_due, read_back
from tasks.reports.artifacts import publish_table

ROWS_MAX = 1000
BAD = (Corrupt, NotFound, Unsupported)
"""Errors of a snapshot that cannot be woken, unlike those of a store that is out of reach."""
GOOD = "as it was written"


@flow(name="verify", flow_run_name="verify-{store}", persist_result=False)
def verify(store: str, share: str = "30d") -> dict[str, Any]:
    """Read stored snapshots back, on this worker's host, and check every byte against its hash.

    Meant to be scheduled: with `30d` and a run each night, no byte goes unread for longer than 31 days. What was not
    read for longest comes first. One that cannot be read fails the run, after the others were read.

    Args:
        store: Name of a store block, for example `weights`.
        share: What to read: `30d` is what was not read for 30 days, `10%` is the tenth of all stored bytes that was not
            read for longest.
    """
    try:
        return _verify(store, Share.parse(share))
    except PoorwillError as error:
        return failed(error)


@dataclass(slots=True)
class _Found:
    """What a run has read so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, PoorwillError] = field(default_factory=dict)
    bytes_read: int = 0

    def good(self, row: dict[str, Any], bytes_read: int) -> None:
        self.bytes_read += bytes_read
        self.rows.append({**row, "read": human(bytes_read), "result": GOOD})

    def bad(self, row: dict[str, Any], error: PoorwillError) -> None:
        self.errors[row["snapshot"]] = error
        self.rows.append({**row, "read": "", "result": error.message})

    def error(self, result: dict[str, Any]) -> PoorwillError:
        """All errors as one, of the type of the worst."""
        every = list(self.errors.items())
        worst = next((error for _, error in every if isinstance(error, BAD)), every[0][1])
        names = "; ".join(f"{name}: {error.message}" for name, error in every[:10])
        return type(worst)(f"{len(every)} of {len(self.rows)} snapshots could not be read back: {names}", **result)


def _verify(store: str, share: Share) -> dict[str, Any]:
    chosen, found = choose_due(store, share), _Found()
    for unreadable in chosen["unreadable"]:
        name = unreadable.partition(":")[0]
        _note(store, found, {"snapshot": name, "machine": "", "last read": ""}, Corrupt(unreadable))
    for due in chosen["due"]:
        if found.bytes_read >= chosen["budget"]:
            break
        row = {"snapshot": due["snapshot_id"], "machine": due["machine"], "last read": _ago(due["read_at_s"])}
        try:
            done = read_back(store, due["machine"], due["snapshot_id"], due["parts"])
            found.good(row, done["bytes_read"])
        except PoorwillError as error:
            if _is_there(store, due):  # else it was removed since it was chosen
                _note(store, found, row, error)
    _publish(store, found, chosen)
    result = {
        "store": store,
        "verified": [row["snapshot"] for row in found.rows if row["result"] == GOOD][:ROWS_MAX],
        "failed": {name: error.message for name, error in list(found.errors.items())[:ROWS_MAX]},
        "bytes_read": found.bytes_read,
        "snapshots": chosen["snapshots"],
        "part_bytes": chosen["part_bytes"],
    }
    if found.errors:
        raise found.error(result)
    return result


def _note(store: str, found: _Found, row: dict[str, Any], error: PoorwillError) -> None:
    found.bad(row, error)
    get_run_logger().error("snapshot %s: %s", row["snapshot"], error.message)
    if isinstance(error, BAD):
        message = f"snapshot {row['snapshot']} of store {store} cannot be read back: {error.message}"
        emit(VERIFICATION_FAILED, "snapshot", row["snapshot"], message, machine=row["machine"], store=store)


def _is_there(store: str, due: dict[str, Any]) -> bool:
    try:
        with closing(store_block(store).open()) as opened:
            catalog.read(opened, due["machine"], due["snapshot_id"])
    except NotFound:
        return False
    except PoorwillError:
        return True
    return True


def _ago(read_at_s: int) -> str:
    return f"{durations.rough(time.time() - read_at_s)} ago" if read_at_s else "never"


def _publish(store: str, found: _Found, chosen: dict[str, Any]) -> None:
    """A table, failures first."""
    ordered = sorted(found.rows, key=lambda row: bool(row["result"] == GOOD))[:ROWS_MAX]
    note = f"{len(found.rows)} of {chosen['snapshots']} snapshots; all have {human(chosen['part_bytes'])}"
    sums = {"snapshot": "all", "machine": "", "last read": "", "read": human(found.bytes_read), "result": note}
    publish_table("verification", [*ordered, sums], f"What was read back of {store}")
