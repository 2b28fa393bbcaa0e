"""Which snapshots to read back next, so that every stored byte is read again and again.

A part is read with its own snapshot; if that is removed, with the oldest of those that need the part.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from poorwill.control.records import catalog, verified
from poorwill.control.records.holdings import Held, Holdings, at_once
from poorwill.control.records.verified import Verified
from poorwill.errors import UsageError
from poorwill.snapshot import durations
from poorwill.snapshot.columns import Array
from poorwill.snapshot.keys import Owner

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)\s*%")


@dataclass(frozen=True, slots=True)
class Share:
    """How much to read in one run: all that was not read for `older_than_s`, or `fraction` of all stored bytes."""

    older_than_s: float | None = None
    fraction: float | None = None

    @classmethod
    def parse(cls, text: str) -> Share:
        """`30d`: all that was not read for 30 days. `10%`: the tenth that was not read for longest. UsageError."""
        percent = _PERCENT.fullmatch(text.strip()) if len(text) <= 64 else None
        if percent is None:
            return cls(older_than_s=float(durations.seconds_of(text)))
        fraction = float(percent[1]) / 100
        if not 0 < fraction <= 1:
            raise UsageError(f"share '{text}': expected more than 0% and at most 100%")
        return cls(fraction=fraction)


@dataclass(slots=True)
class Due:
    """A snapshot, the parts to read with it, and when the first of them was last read: POSIX seconds, 0 for never."""

    owner: Owner
    parts: list[int] = field(default_factory=list)
    part_bytes: int = 0
    read_at_s: float = math.inf

    def add(self, number: int, size: int, read_at_s: float) -> None:
        self.parts.append(number)
        self.part_bytes += size
        self.read_at_s = min(self.read_at_s, read_at_s)


@dataclass(slots=True)
class Rotation:
    """Every committed snapshot, the one that was not read for longest first."""

    dues: list[Due]

    @property
    def part_bytes(self) -> int:
        return sum(due.part_bytes for due in self.dues)

    def of(self, share: Share, now_s: float) -> Iterator[Due]:
        """What a run reads, in this order, up to the `budget` of the share."""
        for due in self.dues:
            if share.older_than_s is not None and now_s - due.read_at_s < share.older_than_s:
                return
            yield due

    def budget(self, share: Share) -> float:
        """How many bytes are enough for a run; infinite for a share by age."""
        return math.inf if share.fraction is None else share.fraction * self.part_bytes


def rotation(holdings: Holdings, now_s: float) -> Rotation:
    """The rotation by the verification records. A time in the future counts as never.

    Refreshes the holdings, which name what cannot be read; that is not part of the rotation.
    """
    holdings.refresh()
    dues = {owner: Due(owner) for owner in sorted(holdings.committed, key=lambda owner: owner[1])}
    orphans: defaultdict[int, float] = defaultdict(float)  # part -> when it was last read
    own_read_at_s: dict[Owner, float] = {}

    def record(owner: Owner) -> Verified | None:
        try:
            return verified.read(holdings.store, *owner)
        except catalog.UNREADABLE:
            return None

    for owner, found in at_once(record, dues, holdings.threads):
        if found is not None and found.proves and found.verified_at_s <= now_s:
            own_read_at_s[owner] = found.verified_at_s
            for number in holdings.numbers.of(found.read_keys).tolist():
                orphans[number] = max(orphans[number], found.verified_at_s)
    _deal(holdings, dues, own_read_at_s, orphans)
    return Rotation(sorted(dues.values(), key=lambda due: (due.read_at_s, due.owner[1])))


def _deal(
    holdings: Holdings, dues: dict[Owner, Due], own_read_at_s: dict[Owner, float], read_at_s: dict[int, float]
) -> None:
    """Assign every part that committed snapshots need to one of them."""
    at_home = np.array(sorted(holdings.numbers.row(owner) for owner in dues), np.int64)
    taken: set[int] = set()
    for owner, due in dues.items():
        held = holdings.committed[owner]
        due.read_at_s = own_read_at_s.get(owner, 0.0)
        for number, size in _numbered(held, holdings.own(held)):
            due.add(number, size, read_at_s.get(number, 0.0))
        for number, size in _numbered(held, ~np.isin(holdings.numbers.rows(held.parts), at_home)):
            if number not in taken:
                taken.add(number)
                due.add(number, size, read_at_s.get(number, 0.0))


def _numbered(held: Held, chosen: Array) -> Iterator[tuple[int, int]]:
    return zip(held.parts[chosen].tolist(), held.sizes[chosen].tolist(), strict=True)
