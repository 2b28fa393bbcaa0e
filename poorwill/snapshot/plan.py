"""Which bytes go into which chunk, and which chunk into which part.

Deterministic: the same entries give the same plan, so that a hibernation that was killed finds its finished
parts again. Large files are cut on a grid from their tensor data; everything small is gathered, in entry
order, into bundles; bundles are spread evenly among the grid chunks, because creating many small files and
coding large chunks load different resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import blake3
import numpy as np

from poorwill.snapshot import limits
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Entries

Extents = Sequence[tuple[int, int]]


@dataclass(slots=True)
class Plan:
    """Chunks to be written. Segments are those of chunk 0, then of chunk 1, ...; their place in the chunk
    is the sum of the lengths before them. `first[c]` is chunk c's first segment, `first[-1]` their count."""

    row: Array
    file_offset: Array
    length: Array
    first: Array

    def __len__(self) -> int:
        return len(self.first) - 1

    def raw_bytes(self) -> Array:
        """Raw bytes of each chunk. int64."""
        sizes: Array = np.diff(self._ends()[self.first])
        return sizes

    def chunk_offsets(self) -> Array:
        """Where each segment begins in its chunk. int64."""
        ends = self._ends()
        offsets: Array = ends[:-1] - np.repeat(ends[self.first[:-1]], np.diff(self.first))
        return offsets

    def _ends(self) -> Array:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.length, dtype=np.int64)])

    def chunk_of_segments(self) -> Array:
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.first))


def plan_chunks(sizes: Array, rows: Array, starts: Mapping[int, int], extents: Mapping[int, Extents]) -> Plan:
    """Plan the content of the files at `rows` (ascending) whose sizes are `sizes[rows]`.

    starts: row -> offset of tensor data, where known. extents: row -> the (offset, length) that hold data,
    for sparse files; others are all data.
    """
    size = sizes[rows].astype(np.int64)
    plain = np.ones(len(rows), bool)
    if extents:
        plain &= ~np.isin(rows, np.fromiter(extents, np.int64, len(extents)))
    small = plain & (size < limits.BUNDLE_BYTES) & (size > 0)
    grid: list[tuple[int, int, int]] = []
    scraps: list[tuple[int, int, int]] = []
    for row, whole in zip(rows[~small].tolist(), size[~small].tolist(), strict=True):
        for offset, length in extents.get(row, ((0, whole),)):
            _cut(row, offset, length, starts.get(row, 0), grid, scraps)
    bundled = np.concatenate(
        [_columns(scraps), np.stack([rows[small], np.zeros_like(size[small]), size[small]])], axis=1
    )
    bundled = bundled[:, np.lexsort((bundled[1], bundled[0]))]
    return _interleaved(_columns(grid), bundled)


def _cut(
    row: int, offset: int, length: int, start: int, grid: list[tuple[int, int, int]], scraps: list[tuple[int, int, int]]
) -> None:
    end = offset + length
    while offset < end:
        if offset < start:
            stop = min(end, start, offset + limits.CHUNK_BYTES)
        else:
            stop = min(end, start + ((offset - start) // limits.CHUNK_BYTES + 1) * limits.CHUNK_BYTES)
        (scraps if stop - offset < limits.FRAGMENT_BYTES_MAX else grid).append((row, offset, stop - offset))
        offset = stop


def _columns(rows: list[tuple[int, int, int]]) -> Array:
    columns: Array = np.array(rows, np.int64).reshape(-1, 3).T
    return columns


def _interleaved(grid: Array, bundled: Array) -> Plan:
    begins = np.cumsum(bundled[2]) - bundled[2]
    _, bundle = np.unique(begins // limits.BUNDLE_BYTES, return_inverse=True)
    bundles = int(bundle[-1]) + 1 if len(bundle) else 0
    grids = grid.shape[1]
    place = np.concatenate([(np.arange(grids) + 0.5) / max(grids, 1), (np.arange(bundles) + 0.5) / max(bundles, 1)])
    rank = np.empty(grids + bundles, np.int64)
    rank[np.argsort(place, kind="stable")] = np.arange(grids + bundles)
    segments = np.concatenate([grid, bundled], axis=1)
    chunk = np.concatenate([rank[:grids], rank[grids + bundle] if bundles else np.zeros(0, np.int64)])
    order = np.argsort(chunk, kind="stable")
    row, file_offset, length = segments[:, order]
    first = np.searchsorted(chunk[order], np.arange(grids + bundles + 1))
    return Plan(row, file_offset, length, first)


def split_parts(raw_bytes: Array, numbers: Sequence[int]) -> list[tuple[int, Array]]:
    """Deal chunks, in order, to the parts `numbers`: balanced by raw bytes, no part without a chunk. Returns (number,
    chunk indexes) for each part used; fewer than `numbers` if there are fewer chunks."""
    count = min(len(numbers), len(raw_bytes))
    if count == 0:
        return []
    ends = np.cumsum(raw_bytes, dtype=np.int64)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count, "left") + 1
    # Rounding may leave a part empty: push every cut at least one chunk behind the one before, and keep
    # enough chunks for those that follow.
    cuts = np.maximum.accumulate(cuts - np.arange(count - 1)) + np.arange(count - 1)
    cuts = np.minimum(cuts, len(raw_bytes) - np.arange(count - 1, 0, -1))
    bounds = [0, *cuts.tolist(), len(raw_bytes)]
    return [(numbers[i], np.arange(bounds[i], bounds[i + 1])) for i in range(count)]


def parts_for(sent_bytes: int, parts: int) -> int:
    """How many parts a snapshot that sends about `sent_bytes` raw bytes is given."""
    if sent_bytes >= limits.FULL_BYTES_MIN:
        return parts
    return max(1, min(parts, -(-sent_bytes // limits.CHUNK_BYTES)))


def source_keys(plan: Plan, entries: Entries) -> Array:
    """What each chunk is read from, as a 32-byte digest of its segments' (inode, size, mtime, ctime, offset,
    length): equal keys on one machine mean equal bytes, without reading them. uint8 (chunks, 32)."""
    keys = []
    for a, b in pairwise(plan.first.tolist()):
        rows = plan.row[a:b]
        columns = [
            entries.inode[rows].astype("<u8"),
            entries.size[rows].astype("<u8"),
            entries.mtime_ns[rows].astype("<i8").view("<u8"),
            entries.ctime_ns[rows].astype("<i8").view("<u8"),
            plan.file_offset[a:b].astype("<u8"),
            plan.length[a:b].astype("<u8"),
        ]
        keys.append(blake3.blake3(np.stack(columns, axis=1).tobytes()).digest())
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)


def plan_hash(keys: Array) -> str:
    return "blake3:" + blake3.blake3(keys.tobytes()).hexdigest()
