"""Retention of a whole store: what a policy keeps, what goes to the trash, and what is removed from the trash.

`plan` changes nothing; `apply` carries a plan out. Safe while anything else works on the store (see trash.py and
purging.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from poorwill.control.records import catalog, clock, intents, trash, verified
from poorwill.control.records.holdings import Held, Holdings, Needs, at_once
from poorwill.control.removal import purging
from poorwill.control.removal.purging import Purged, Usage
from poorwill.errors import Corrupt, NotFound, Unsupported
from poorwill.snapshot.keys import Owner
from poorwill.snapshot.retention_policy import Candidate, Policy, Standing, judge
from poorwill.store.base import Store

STALE_S = 7 * 86_400.0
NOT_ENDED = "its run has not ended"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One snapshot. Without `reasons` it goes to the trash, and `freed_bytes` are freed after the grace period."""

    owner: Owner
    name: str | None
    tags: tuple[str, ...]
    reasons: tuple[str, ...]
    raw_bytes: int
    own_bytes: int
    freed_bytes: int


@dataclass(slots=True)
class Plan:
    """What retention would do. Bytes are those of parts; the documents beside them are small.

    expired, abandoned: what is removed for good now. in_trash: what waits for the end of its grace period, and its time
    in the trash. stale: pending records older than STALE_S, and their age; each keeps parts until its run is ended or
    given up. unused: bytes of parts that their own, committed snapshot does not use, of tries that were cut off; they
    go now. kept_bytes: the bytes in the trash that other snapshots need.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    in_trash: dict[Owner, float] = field(default_factory=dict)
    expired: set[Owner] = field(default_factory=set)
    abandoned: set[Owner] = field(default_factory=set)
    stale: dict[Owner, float] = field(default_factory=dict)
    unused: dict[Owner, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    stored_bytes: int = 0
    freed_now_bytes: int = 0
    freed_later_bytes: int = 0
    kept_bytes: int = 0

    @property
    def going(self) -> list[Owner]:
        return [verdict.owner for verdict in self.verdicts if not verdict.reasons]

    @property
    def left_bytes(self) -> int:
        """What is stored once all of it is done and every grace period is over."""
        return self.stored_bytes - self.freed_now_bytes - self.freed_later_bytes


def plan(
    holdings: Holdings,
    policy: Policy,
    grace_s: float,
    *,
    machine: str | None = None,
    protected: Mapping[str, str] | None = None,
    stale_s: float = STALE_S,
) -> Plan:
    """Judge every snapshot of a store, or of one machine. Removes nothing. UsageError for a policy without a rule.

    protected: snapshot id -> why it must be kept. Also kept are snapshots whose run has not ended, from which a machine
    is being woken, or that are being converted, and what `judge` keeps in any case.
    """
    policy.check()
    lying = _look(holdings)
    now_s = clock.store_time_s(holdings.store)
    found = Plan(unreadable=list(holdings.unreadable))
    not_ended = {snapshot_id: NOT_ENDED for _, snapshot_id in holdings.pending}
    converted = {
        begun.record.converted_from: f"it is being converted into {begun.record.snapshot_id}"
        for begun in holdings.pending.values()
        if begun.record.converted_from is not None
    }
    reasons = {**converted, **_being_woken(holdings, found), **not_ended, **(protected or {})}
    verdicts = _judged(policy, holdings, lying, machine, reasons)
    found.expired = purging.expired(holdings, now_s, grace_s)
    found.abandoned = purging.abandoned(holdings, lying, now_s, grace_s)
    waiting = holdings.trash.keys() - holdings.committed.keys() - found.expired
    found.in_trash = {owner: now_s - holdings.trash[owner].modified_s for owner in sorted(waiting)}
    _count(found, holdings, verdicts, lying)
    found.stale = {
        owner: now_s - begun.modified_s
        for owner, begun in holdings.pending.items()
        if now_s - begun.modified_s > stale_s
    }
    return found


def _look(holdings: Holdings) -> dict[Owner, Usage]:
    """Refresh the holdings and list the objects, at the same time as both take long: a plan need not be exact."""
    if holdings.threads <= 1:
        holdings.refresh()
        return purging.usage(holdings.store)
    with ThreadPoolExecutor(1) as beside:
        listing = beside.submit(purging.usage, holdings.store)
        holdings.refresh()
        return listing.result()


def apply(holdings: Holdings, going: Iterable[Owner], grace_s: float) -> Purged:
    """Move the snapshots in `going` to the trash, then remove for good what has been there for the grace period.

    Safe to interrupt and to repeat. Refused if something in the store cannot be read; what was moved by then waits in
    the trash.
    """
    holdings.check_readable()

    def move(owner: Owner) -> None:
        try:
            trash.move(holdings.store, owner)
        except NotFound:
            pass  # it was removed since it was planned

    for _ in at_once(move, going, holdings.threads):
        pass
    return purging.purge(holdings, grace_s)


def _being_woken(holdings: Holdings, found: Plan) -> dict[str, str]:
    try:
        every = list(intents.every(holdings.store))
    except (Corrupt, Unsupported) as error:
        found.unreadable.append(error.message)
        return {}
    return {
        intent.snapshot_id: f"machine {intent.machine} is being woken from it" for intent in every if not intent.woken
    }


def _judged(
    policy: Policy, holdings: Holdings, lying: dict[Owner, Usage], machine: str | None, protected: Mapping[str, str]
) -> dict[Owner, tuple[str, ...]]:
    """What the policy says. Of the verification records few are read: those of what would be kept for being verified.

    One that has a record is taken for verified until that was read.
    """
    standings: dict[Owner, Standing] = {
        owner: "proven" for owner in holdings.committed if owner in lying and lying[owner].verified
    }
    asked: set[Owner] = set()
    while True:
        candidates = [
            Candidate(*owner, held.tags, held.committed_at_ms, held.extent, standings.get(owner, "unknown"))
            for owner, held in holdings.committed.items()
            if machine in (None, owner[0])
        ]
        verdicts = judge(policy, candidates, protected)
        losing = {owner[0] for owner, reasons in verdicts.items() if not reasons}
        trusted = [
            owner
            for owner, reasons in verdicts.items()
            if reasons and owner[0] in losing and owner in standings and owner not in asked
        ]
        if not trusted:
            return verdicts
        asked.update(trusted)
        for owner, standing in at_once(lambda owner: _standing(holdings.store, owner), trusted, holdings.threads):
            standings[owner] = standing


def _standing(store: Store, owner: Owner) -> Standing:
    try:
        record = verified.read(store, *owner)
    except catalog.UNREADABLE:
        return "unknown"
    if record.failed:
        return "failed"
    return "proven" if record.proves else "unknown"


def _count(found: Plan, holdings: Holdings, verdicts: dict[Owner, tuple[str, ...]], lying: dict[Owner, Usage]) -> None:
    """Fill in how many bytes there are, and how many are freed when."""
    going = {owner for owner, reasons in verdicts.items() if not reasons}
    in_trash = found.expired | found.in_trash.keys()
    soon, later = holdings.needs(without=found.expired), holdings.needs(without=in_trash | going)
    held = {**holdings.trash, **holdings.committed}
    freed = {owner: _freed(holdings, held[owner], later, lying) for owner in in_trash | going}
    from_trash = sum(_freed(holdings, held[owner], soon, lying) for owner in found.expired)
    found.stored_bytes = sum(usage.part_bytes for usage in lying.values())
    found.unused = {owner: size for owner, size in purging.unused(holdings, lying).items() if owner not in going}
    found.freed_now_bytes = from_trash + sum(found.unused.values())
    found.freed_now_bytes += sum(lying[owner].part_bytes for owner in found.abandoned & lying.keys())
    found.freed_later_bytes = sum(freed.values()) - from_trash
    found.kept_bytes = sum(lying[owner].part_bytes - freed[owner] for owner in in_trash & lying.keys())
    for owner, reasons in verdicts.items():
        it, part_bytes = held[owner], lying.get(owner, Usage()).part_bytes
        found.verdicts.append(Verdict(owner, it.name, it.tags, reasons, it.raw_bytes, part_bytes, freed.get(owner, 0)))


def _freed(holdings: Holdings, held: Held, needs: Needs, lying: dict[Owner, Usage]) -> int:
    """Bytes that are freed with one snapshot if nothing but `needs` is kept."""
    lies = lying.get(held.owner, Usage())
    own = holdings.own(held)
    needed = needs.of(held.owner, held.parts[own])
    needed_bytes = int(held.sizes[own][needed].sum(dtype=np.int64))
    return max(0, lies.part_bytes - needed_bytes)
