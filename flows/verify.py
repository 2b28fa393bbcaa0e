"""The flow that reads snapshots back again and again."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from blocks.lookup import store_block
from flows.stages import failed
from poorwill import defaults
from poorwill.control.records import catalog
from poorwill.control.removal.rotation import Share
from poorwill.errors import Corrupt, NotFound, PoorwillError
from poorwill.snapshot.sizes import human
from tasks.events import VERIFICATION_FAILED, emit
from tasks.read_back import Chosen, ReadBack, Reading, choose_due, read_back
from tasks.reports.artifacts import ROWS_MAX, Row, publish_table

BAD = catalog.UNREADABLE
"""Errors of a snapshot that cannot be woken, unlike those of a store that is out of reach."""
GOOD = "as it was written"


@flow(name="verify", flow_run_name="verify-{store}", persist_result=False)
def verify(store: str, share: str = defaults.VERIFY_SHARE) -> dict[str, Any]:
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

    store: str
    rows: list[Row] = field(default_factory=list)
    errors: dict[str, PoorwillError] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    bytes_read: int = 0

    def good(self, row: Row, read: ReadBack) -> None:
        self.bytes_read += read.bytes_read
        self.rows.append({**row, "read": human(read.bytes_read), "result": "; ".join((GOOD, *read.warnings[:3]))})
        if read.warnings:
            self.warnings[row["snapshot"]] = list(read.warnings)
            get_run_logger().warning("snapshot %s: %s", row["snapshot"], "; ".join(read.warnings))

    def bad(self, row: Row, error: PoorwillError) -> None:
        name = row["snapshot"]
        self.errors[name] = error
        self.rows.append({**row, "read": "", "result": error.message})
        get_run_logger().error("snapshot %s: %s", name, error.message)
        if isinstance(error, BAD):
            message = f"snapshot {name} of store {self.store} cannot be read back: {error.message}"
            emit(VERIFICATION_FAILED, "snapshot", name, message, machine=row["machine"], store=self.store)

    def error(self, result: dict[str, Any]) -> PoorwillError:
        """All errors as one, of the type of the worst."""
        every = list(self.errors.items())
        worst = next((error for _, error in every if isinstance(error, BAD)), every[0][1])
        names = "; ".join(f"{name}: {error.message}" for name, error in every[:10])
        return type(worst)(f"{len(every)} of {len(self.rows)} snapshots could not be read back: {names}", **result)

    def publish(self, chosen: Chosen) -> None:
        """A table, failures first."""
        ordered = sorted(self.rows, key=lambda row: _is_good(row))[:ROWS_MAX]
        note = f"{len(self.rows)} of {chosen.snapshots} snapshots; all have {human(chosen.part_bytes)}"
        sums = {"snapshot": "all", "machine": "", "last read": "", "read": human(self.bytes_read), "result": note}
        publish_table("verification", [*ordered, sums], f"What was read back of {self.store}")


def _verify(store: str, share: Share) -> dict[str, Any]:
    chosen, found = choose_due(store, share), _Found(store)
    for unreadable in chosen.unreadable:
        name = unreadable.partition(":")[0]
        found.bad({"snapshot": name, "machine": "", "last read": ""}, Corrupt(unreadable))
    for due in chosen.due:
        if found.bytes_read >= chosen.budget:
            break
        row = {"snapshot": due.snapshot_id, "machine": due.machine, "last read": due.last_read}
        try:
            found.good(row, read_back(store, due))
        except PoorwillError as error:
            if _is_there(store, due):  # else it was removed since it was chosen
                found.bad(row, error)
    found.publish(chosen)
    result = {
        "store": store,
        "verified": [row["snapshot"] for row in found.rows if _is_good(row)][:ROWS_MAX],
        "failed": {name: error.message for name, error in list(found.errors.items())[:ROWS_MAX]},
        "warnings": dict(list(found.warnings.items())[:ROWS_MAX]),
        "bytes_read": found.bytes_read,
        "snapshots": chosen.snapshots,
        "part_bytes": chosen.part_bytes,
    }
    if found.errors:
        raise found.error(result)
    return result


def _is_there(store: str, due: Reading) -> bool:
    try:
        with closing(store_block(store).open()) as opened:
            catalog.read(opened, due.machine, due.snapshot_id)
    except PoorwillError as error:
        return not isinstance(error, NotFound)
    return True


def _is_good(row: Row) -> bool:
    return str(row["result"]).startswith(GOOD)
