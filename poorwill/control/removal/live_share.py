"""How much of the parts that outlived their snapshots is still needed.

A part is kept whole, even for a single chunk. Parts that are hardly needed any more are reported here, but not
repacked: they are removed with the last snapshot that needs them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from poorwill.control.records import catalog, manifests
from poorwill.control.records.holdings import Held, Holdings
from poorwill.snapshot import keys
from poorwill.snapshot.columns import Array

SMALL_SHARE = 0.5
MANIFESTS_MAX = 64
MANIFEST_BYTES_MAX = 16 << 20
"""Of one manifest, which takes some ten times as much memory. The parts of larger ones are not measured."""


@dataclass(frozen=True, slots=True)
class LiveShare:
    """A part of a removed snapshot, and how many of its bytes committed snapshots need."""

    key: str
    part_bytes: int
    live_bytes: int

    @property
    def share(self) -> float:
        return self.live_bytes / max(self.part_bytes, 1)


@dataclass(slots=True)
class _Live:
    sizes: dict[str, int] = field(default_factory=dict)
    chunks: defaultdict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))  # key: offset -> bytes


def live_shares(holdings: Holdings) -> tuple[list[LiveShare], int]:
    """Parts of removed snapshots, smallest share first, and how many could not be measured within the limits."""
    gone = holdings.trash.keys() - holdings.committed.keys()
    orphaned = np.array(sorted(holdings.numbers.row(owner) for owner in gone), np.int64)
    borrowers = [
        held for held in holdings.committed.values() if np.isin(holdings.numbers.rows(held.parts), orphaned).any()
    ]
    read, left = _within_limits(borrowers)
    unmeasured = {int(number) for held in left for number in _of(holdings, held, orphaned)}
    found = _Live()
    for held in read:
        if not _collect(holdings, held, orphaned, found):
            unmeasured |= {int(number) for number in _of(holdings, held, orphaned)}
    shares = [
        LiveShare(key, size, sum(found.chunks[key].values()))
        for key, size in found.sizes.items()
        if int(holdings.numbers.of([key])[0]) not in unmeasured
    ]
    return sorted(shares, key=lambda each: (each.share, each.key)), len(unmeasured)


def _within_limits(borrowers: list[Held]) -> tuple[list[Held], list[Held]]:
    fitting = [held for held in borrowers if held.manifest_bytes <= MANIFEST_BYTES_MAX]
    read = sorted(fitting, key=lambda held: held.owner[1], reverse=True)[:MANIFESTS_MAX]
    chosen = {held.owner for held in read}
    return read, [held for held in borrowers if held.owner not in chosen]


def _of(holdings: Holdings, held: Held, orphaned: Array) -> Array:
    found: Array = held.parts[np.isin(holdings.numbers.rows(held.parts), orphaned)]
    return found


def _collect(holdings: Holdings, held: Held, orphaned: Array, found: _Live) -> bool:
    """Note the chunks that a snapshot needs of such parts. False if its manifest cannot be read."""
    try:
        manifest = manifests.read(holdings.store, catalog.read(holdings.store, *held.owner))
    except catalog.UNREADABLE:
        return False
    chunks = manifest.chunks
    for row in range(len(manifest.parts)):
        key = manifest.parts.key(row)
        owner = keys.owner_of(key)
        if owner is None or holdings.numbers.row(owner) not in orphaned:
            continue
        found.sizes[key] = int(manifest.parts.size[row])
        used = np.flatnonzero(chunks.part == row)
        found.chunks[key].update(zip(chunks.offset[used].tolist(), chunks.stored[used].tolist(), strict=True))
    return True
