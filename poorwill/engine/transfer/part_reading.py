"""What restore and verify share: the runs of a part to read, and its own index checked against the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from poorwill.engine.protocol.answers import PartListed
from poorwill.engine.transfer.fetch import Run, Source
from poorwill.errors import Corrupt
from poorwill.snapshot import part_index
from poorwill.snapshot.columns import Array
from poorwill.snapshot.part_index import TRAILER_BYTES, IndexRows
from poorwill.snapshot.tables import Manifest

RUN_BYTES = 8 << 20


def listed(manifest: Manifest, rows: Iterable[int]) -> tuple[PartListed, ...]:
    """Parts by their rows, for the control side."""
    parts = manifest.parts
    return tuple(PartListed(row, parts.key(row), int(parts.size[row])) for row in rows)


def runs_of(offset: Array, stored: Array, rows: Array, run_bytes: int = RUN_BYTES) -> list[Run]:
    """Neighbouring chunks as runs of at most `run_bytes`, or of one chunk."""
    order = np.argsort(offset, kind="stable")
    runs: list[Run] = []
    for start, length, row in zip(offset[order].tolist(), stored[order].tolist(), rows[order].tolist(), strict=True):
        if runs and sum(runs[-1][:2]) == start and runs[-1][1] + length <= run_bytes:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, [*runs[-1][2], row])
        else:
            runs.append((start, length, [row]))
    return runs


def stored_chunks(data: memoryview, rows: list[int], stored: Array) -> Iterator[tuple[int, memoryview]]:
    """The chunks of a run, each with its stored bytes. stored: their sizes, by row."""
    at = 0
    for row in rows:
        end = at + int(stored[row])
        yield row, data[at:end]
        at = end


def read_index(source: Source, size: int, key: str) -> IndexRows:
    """A part's own index, its hash checked. Corrupt, NotFound."""
    trailer = bytearray(min(TRAILER_BYTES, size))
    source.read(size - len(trailer), memoryview(trailer))
    tail = bytearray(min(part_index.read_trailer(bytes(trailer), key).tail_bytes, size))
    source.read(size - len(tail), memoryview(tail))
    found, rows = part_index.decode(bytes(tail), size, key)
    snapshot_id, number = key.split("/")[-2:]
    if (found.snapshot_id, f"{found.number:02d}") != (snapshot_id, number):
        raise Corrupt(f"{key}: its index says part {found.number:02d} of {found.snapshot_id}")
    return rows


def check_against_index(manifest: Manifest, chunk_rows: Array, index: IndexRows, key: str) -> None:
    """Corrupt unless the index lists each of these chunks exactly as the manifest does."""
    chunks = manifest.chunks
    if not len(chunk_rows):
        return
    place = np.searchsorted(index.offset, chunks.offset[chunk_rows])
    place = np.minimum(place, max(len(index) - 1, 0))
    for name in ("offset", "stored", "raw", "codec", "stored_hash", "raw_hash"):
        ours = getattr(chunks, name)[chunk_rows]
        theirs = getattr(index, name)[place] if len(index) else ours[:0]
        if ours.shape != theirs.shape or (ours != theirs).any():
            raise Corrupt(f"{key}: manifest and the part's own index disagree about '{name}' of a chunk")
