"""One round of packing: what changed since the round before, planned part by part."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from poorwill.engine.pack import attributes
from poorwill.engine.pack.chunk_records import ChunkRecords
from poorwill.engine.pack.matching import compare, unsure
from poorwill.engine.pack.scan import Scan
from poorwill.engine.pack.source_reader import Torn
from poorwill.snapshot import plan
from poorwill.snapshot.columns import Array, Blobs
from poorwill.snapshot.order import PackSettings
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Chunks, Kind, Manifest, Parts


@dataclass(frozen=True, slots=True)
class Adopted:
    """A finished part of this very snapshot, found in the store by a run that continues a killed one."""

    number: int
    size: int
    rows: IndexRows


@dataclass(slots=True)
class Round:
    """What is known, what is to be done, and what has become of it.

    base_parts, base_chunks: everything already in the store that this snapshot may refer to.
    matched: for each entry its unchanged row in `previous`, or -1. steady: nothing came, went or changed since then.
    """

    settings: PackSettings
    scan: Scan
    previous: Manifest
    base_parts: Parts
    base_chunks: Chunks
    matched: Array
    steady: bool
    plan: plan.Plan
    sources: Array
    records: ChunkRecords
    parts: dict[int, Array]
    sizes: dict[int, int] = field(default_factory=dict)
    torn: dict[int, Torn] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def begin(
    settings: PackSettings,
    scan: Scan,
    previous: Manifest,
    adopted: Sequence[Adopted],
    numbers: Sequence[int],
    at_rest: Array | None = None,
) -> Round:
    """Plan a round: files unchanged since `previous` keep their segments; chunks that an adopted part holds
    are done; the rest is dealt to the part `numbers`, no more of them than the settings allow.

    at_rest: if `previous` is what this very run scanned last, a tick ago or more, the entries that were at rest then.
    """
    matched, alike = compare(scan, previous.entries, previous.scanned_at_ns, at_rest)
    steady = len(previous.entries) == len(scan.entries) and bool((matched >= 0).all())
    if at_rest is not None:
        scan.at_rest = alike
    matched[scan.again] = -1
    attributes.fill(scan, matched, previous)
    entries = scan.entries
    rows = np.flatnonzero((entries.kind == Kind.FILE) & (matched < 0))
    extents = {row: found for row, found in scan.extents.items() if matched[row] < 0}
    planned = plan.plan_chunks(entries.size, rows, scan.starts(rows), extents)
    sources = plan.source_keys(planned, entries).copy()
    # A racy file could change again within its tick: what was read from it must not be taken for it later.
    doubted = unsure(scan) | scan.mapped | scan.again
    sources[np.unique(planned.chunk_of_segments()[doubted[planned.row]])] = 0
    base_parts, base_chunks = _with_adopted(settings, previous, adopted)
    records = ChunkRecords(len(planned), base_chunks)
    done = match_sources(sources, adopted, len(previous.chunks))
    for chunk, row in done.items():
        records.adopt(chunk, row, base_chunks.raw_hash[row])
    todo = np.setdiff1d(np.arange(len(planned)), np.fromiter(done, np.int64, len(done)))
    raw = planned.raw_bytes()
    count = plan.parts_for(int(raw.sum()), settings.parts)
    shares = plan.split_parts(raw[todo], numbers[:count])
    return Round(
        settings, scan, previous, base_parts, base_chunks, matched, steady, planned, sources, records,
        {number: todo[share] for number, share in shares},
    )  # fmt: skip


def _with_adopted(settings: PackSettings, previous: Manifest, adopted: Sequence[Adopted]) -> tuple[Parts, Chunks]:
    own = parts_of(settings.machine, settings.snapshot_id, [(found.number, found.size) for found in adopted])
    chunks = [found.rows.chunks(row) for row, found in enumerate(adopted, len(previous.parts))]
    return Parts.joined([previous.parts, own]), Chunks.joined([previous.chunks, *chunks])


def parts_of(machine: str, snapshot_id: str, sizes: Sequence[tuple[int, int]]) -> Parts:
    """Parts of one snapshot. sizes: number and bytes of each."""
    count = len(sizes)
    number, size = np.array(sizes, np.uint64).reshape(-1, 2).T
    owner = (Blobs.of([machine.encode()] * count), Blobs.of([snapshot_id.encode()] * count))
    return Parts(*owner, number.astype(np.uint8), size)


def match_sources(sources: Array, adopted: Sequence[Adopted], first_row: int) -> dict[int, int]:
    """Planned chunk -> row of an adopted one with the same source, counted from `first_row` part after part."""
    have: dict[bytes, int] = {}
    for found in adopted:
        for source in found.rows.source:
            have[source.tobytes()] = first_row
            first_row += 1
    have.pop(bytes(32), None)
    return {chunk: have[key] for chunk, key in enumerate(map(bytes, sources)) if key in have} if have else {}
