"""From a finished round to a manifest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from poorwill.engine.pack.chunk_records import MISSING
from poorwill.engine.pack.round import Round, parts_of
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Chunks, Entries, Kind, Manifest, Parts, Segments, Targets, XattrSets

MAPPED_NS = -2
"""The ctime of a file that a process may have changed, through a mapping, without moving its times: no file has it."""


def empty_manifest(machine: str, snapshot_id: str) -> Manifest:
    """What the first snapshot of a machine is compared with."""
    none = (Parts.zeros(), Chunks.zeros(), Entries.zeros(), Segments.zeros(), Targets.zeros(), XattrSets.zeros())
    return Manifest(machine, snapshot_id, 0, *none)


def assemble(round_: Round) -> Manifest:
    """The manifest of what the round scanned. Entries whose bytes are not (all) there get the impossible
    ctime -1, so that the next scan finds them changed; `unsettled` lists them."""
    kept_row, kept = _kept_segments(round_)
    new_row, new, lost = _new_segments(round_)
    row = np.concatenate([kept_row, new_row])
    segments = Segments.joined([kept, new])
    order = np.lexsort((segments.file_offset, row))
    entries = replace(round_.scan.entries, ctime_ns=round_.scan.entries.ctime_ns.copy())
    entries.segments = np.bincount(row, minlength=len(entries)).astype(np.uint32)
    again = np.fromiter({*round_.torn, *lost.tolist()}, np.int64)
    entries.ctime_ns[again] = -1
    parts, chunks = _all_chunks(round_)
    manifest = Manifest(
        round_.settings.machine, round_.settings.snapshot_id, round_.scan.scanned_at_ns, parts, chunks, entries,
        segments.take(order), round_.scan.targets, round_.scan.xattr_sets,
    )  # fmt: skip
    return compact(manifest)


def unsettled(manifest: Manifest) -> Array:
    """Rows that `assemble` marked."""
    return np.flatnonzero(manifest.entries.ctime_ns == -1)


def _kept_segments(round_: Round) -> tuple[Array, Segments]:
    previous = round_.previous
    rows = np.flatnonzero((round_.matched >= 0) & (round_.scan.entries.kind == Kind.FILE))
    old = round_.matched[rows]
    first = previous.first_segments()
    counts = (first[old + 1] - first[old]) if len(rows) else np.zeros(0, np.int64)
    # The i-th kept segment is the first one of its file plus its place among the file's segments.
    place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(rows, counts), previous.segments.take(np.repeat(first[old], counts) + place)


def _new_segments(round_: Round) -> tuple[Array, Segments, Array]:
    plan = round_.plan
    place = round_.records.resolved()[plan.chunk_of_segments()] if len(plan) else np.zeros(0, np.int64)
    done = place != MISSING
    segments = Segments(
        plan.file_offset[done].astype(np.uint64),
        place[done].astype(np.uint32),
        plan.chunk_offsets()[done].astype(np.uint32),
        plan.length[done].astype(np.uint32),
    )
    return plan.row[done], segments, np.unique(plan.row[~done])


def _all_chunks(round_: Round) -> tuple[Parts, Chunks]:
    numbers = sorted(round_.sizes)
    first = len(round_.base_parts)
    row_of = np.zeros(256, np.uint32)
    row_of[numbers] = np.arange(first, first + len(numbers))
    own = parts_of(round_.settings.machine, round_.settings.snapshot_id, [(n, round_.sizes[n]) for n in numbers])
    new = replace(round_.records.chunks, part=row_of[round_.records.chunks.part])
    return Parts.joined([round_.base_parts, own]), Chunks.joined([round_.base_chunks, new])


def compact(manifest: Manifest) -> Manifest:
    """The same without chunks no segment uses and parts no chunk is in."""
    used = np.unique(manifest.segments.chunk)
    renumber = np.zeros(len(manifest.chunks) + 1, np.uint32)
    renumber[used] = np.arange(len(used))
    manifest.segments.chunk = renumber[manifest.segments.chunk]
    manifest.chunks = manifest.chunks.take(used)
    used = np.unique(manifest.chunks.part)
    renumber = np.zeros(len(manifest.parts) + 1, np.uint32)
    renumber[used] = np.arange(len(used))
    manifest.chunks.part = renumber[manifest.chunks.part]
    manifest.parts = manifest.parts.take(used)
    return manifest


def without(manifest: Manifest, rows: Array) -> Manifest:
    """The manifest without those files, and without hardlinks to them. None of `rows` is a directory."""
    entries = manifest.entries
    gone = np.zeros(len(entries), bool)
    gone[rows] = True
    gone |= (entries.kind == Kind.HARDLINK) & gone[np.minimum(entries.link, len(entries) - 1)]
    keep = np.flatnonzero(~gone)
    renumber = np.cumsum(~gone) - 1
    segments = manifest.segments.take(np.flatnonzero(~gone[manifest.segment_rows()]))
    kept = entries.take(keep)
    kept.parent = renumber[kept.parent].astype(np.uint32)
    hard = kept.kind == Kind.HARDLINK
    kept.link[hard] = renumber[kept.link[hard]]
    manifest.entries, manifest.segments = kept, segments
    return compact(manifest)
