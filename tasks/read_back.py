"""Reading snapshots back, long after they were taken: which are due, and one of them."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

from prefect import task

from blocks.lookup import store_block
from poorwill.control.records import catalog
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import rotation
from poorwill.control.removal.rotation import Share
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.remote.local_host import LocalHost
from tasks.retries import policy


@task(name="choose_due", **policy())
def choose_due(store: str, share: Share) -> dict[str, Any]:
    """The snapshots to read, the one that was not read for longest first.

    Returns `due`, a list of `machine`, `snapshot_id`, `parts` (keys), `part_bytes` and `read_at_s` (0: never); how many
    bytes are enough (`budget`); of all snapshots their number (`snapshots`) and bytes (`part_bytes`); and what is wrong
    with documents that cannot be read (`unreadable`).

    Args:
        store: name of a store block.
        share: how much to read.
    """
    with closing(store_block(store).open()) as opened:
        holdings, now_s = Holdings(opened), time.time()
        found = rotation.rotation(holdings, now_s)
        due = [
            {
                "machine": each.owner[0],
                "snapshot_id": each.owner[1],
                "parts": [holdings.numbers.key(number) for number in each.parts],
                "part_bytes": each.part_bytes,
                "read_at_s": int(each.read_at_s),
            }
            for each in found.of(share, now_s)
        ]
        return {
            "due": due,
            "budget": found.budget(share),
            "snapshots": len(found.dues),
            "part_bytes": found.part_bytes,
            "unreadable": holdings.unreadable,
        }


@task(name="read_back", **policy())
def read_back(store: str, machine: str, snapshot_id: str, parts: list[str]) -> dict[str, Any]:
    """Have an engine on this host read these parts of a snapshot, and write the verification record.

    Corrupt, NotFound, Unsupported: it cannot be woken as it was.

    Args:
        store: name of a store block.
        machine: whose snapshot it is.
        snapshot_id: which.
        parts: keys of the parts to read, among them all of its own.
    """
    with closing(store_block(store).open()) as opened:
        metadata = catalog.read(opened, machine, snapshot_id)
        with closing(EngineSession(LocalHost())) as session:
            session.hello("/")
            record = VerifyRun(opened, session, metadata, only=frozenset(parts)).run_all()
    return {"bytes_read": record.bytes_read, "chunks_sampled": record.chunks_sampled}
