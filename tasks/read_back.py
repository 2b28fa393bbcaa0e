"""Reading snapshots back, long after they were taken: which are due, and one of them."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from prefect import task

from blocks.lookup import store_block
from poorwill.control.records import catalog
from poorwill.control.records.holdings import Holdings
from poorwill.control.removal import rotation
from poorwill.control.removal.rotation import Share
from poorwill.control.snapshot.session import EngineSession
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.remote.local_host import LocalHost
from poorwill.snapshot import durations
from tasks.retries import policy


@dataclass(frozen=True, slots=True)
class Reading:
    """One snapshot to read back: the keys of the parts to read, and when they were last read, in words."""

    machine: str
    snapshot_id: str
    parts: frozenset[str]
    last_read: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The snapshots to read, that first which was not read for longest, until `budget` bytes are read.

    snapshots, part_bytes: how many there are in the store, and their bytes. unreadable: documents that cannot be read.
    """

    due: list[Reading]
    budget: float
    snapshots: int
    part_bytes: int
    unreadable: list[str]


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What was read of a snapshot. warnings: what will become of it in the store, by whose rule."""

    bytes_read: int
    warnings: tuple[str, ...]


@task(name="choose_due", **policy())
def choose_due(store: str, share: Share) -> Chosen:
    """Choose what to read of a store."""
    with closing(store_block(store).open()) as opened:
        holdings, now_s = Holdings(opened), time.time()
        found = rotation.rotation(holdings, now_s)
        due = [
            Reading(
                *each.owner,
                frozenset(holdings.numbers.key(number) for number in each.parts),
                f"{durations.rough(now_s - each.read_at_s)} ago" if each.read_at_s else "never",
            )
            for each in found.of(share, now_s)
        ]
        return Chosen(due, found.budget(share), len(found.dues), found.part_bytes, holdings.unreadable)


@task(name="read_back", **policy())
def read_back(store: str, reading: Reading) -> ReadBack:
    """Have an engine on this host read a snapshot's parts, and write the verification record.

    Corrupt, NotFound, Unsupported: it cannot be woken as it was.
    """
    with closing(store_block(store).open()) as opened:
        metadata = catalog.read(opened, reading.machine, reading.snapshot_id)
        with closing(EngineSession(LocalHost())) as session:
            session.hello("/")
            run = VerifyRun(opened, session, metadata, only=reading.parts)
            return ReadBack(run.run_all().bytes_read, tuple(run.warnings))
