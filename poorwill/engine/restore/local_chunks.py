"""Chunks whose raw bytes stand in the workspace already."""

from __future__ import annotations

import blake3
import numpy as np

from poorwill.engine.pool import Bench
from poorwill.engine.restore.selection import Placement
from poorwill.engine.restore.tree_in_place import TreeInPlace
from poorwill.engine.transfer.decoding import chunk_buffer
from poorwill.snapshot.tables import Chunks

CANDIDATES_MAX = 4
"""How many copies of a chunk in the workspace are tried: each is read and hashed in full."""


class LocalChunks:
    """Finds chunks in the files that stand where the chunks' segments belong. Thread-safe."""

    def __init__(self, tree: TreeInPlace, chunks: Chunks, placement: Placement) -> None:
        self._tree, self._chunks, self._placement = tree, chunks, placement

    def find(self, bench: Bench, chunk: int) -> tuple[memoryview, frozenset[int]] | None:
        """The chunk's raw bytes, hash checked, and the segments they were read from; None if they are not there.

        The bytes are valid until the thread's next chunk. A chunk of many small files is found when each of its
        bytes is in a wanted file: one that differs is enough to miss it.
        """
        raw_bytes, expected = int(self._chunks.raw[chunk]), self._chunks.raw_hash[chunk].tobytes()
        raw = chunk_buffer(bench, "raw", raw_bytes)
        for sources in self._candidates(chunk, raw_bytes):
            if self._read(bench, sources, raw) and blake3.blake3(raw).digest() == expected:
                return raw, frozenset(sources)
        return None

    def _candidates(self, chunk: int, raw_bytes: int) -> list[list[int]]:
        """Lists of segments whose files stand there and that together cover the chunk."""
        placement = self._placement
        first, stop = int(placement.first[chunk]), int(placement.first[chunk + 1])
        there = first + np.flatnonzero(self._tree.found.regular[placement.row[first:stop]])
        begin = placement.segment.chunk_offset[there].astype(np.int64)
        length = placement.segment.length[there].astype(np.int64)
        whole = there[length == raw_bytes]
        if len(whole):
            return [[segment] for segment in whole[:CANDIDATES_MAX].tolist()]
        order = np.lexsort((-length, begin))
        cover, at = list[int](), 0
        ranges = zip(there[order].tolist(), begin[order].tolist(), length[order].tolist(), strict=True)
        for segment, start, size in ranges:
            if start > at:
                return []
            if start + size > at:
                cover.append(segment)
                at = start + size
        return [cover] if at == raw_bytes else []

    def _read(self, bench: Bench, sources: list[int], raw: memoryview) -> bool:
        placement, read = self._placement, self._tree.read_range
        segment = placement.segment
        return all(
            read(bench, row, file_offset, raw[at : at + length])
            for row, file_offset, at, length in zip(
                placement.row[sources].tolist(),
                segment.file_offset[sources].tolist(),
                segment.chunk_offset[sources].tolist(),
                segment.length[sources].tolist(),
                strict=True,
            )
        )
