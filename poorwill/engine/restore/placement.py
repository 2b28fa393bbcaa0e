"""Where the bytes of each chunk belong in the workspace."""

from __future__ import annotations

import numpy as np

from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Manifest, Segments


class Placement:
    """The segments of wanted entries, sorted by chunk: those of chunk `c` are `first[c]` to `first[c + 1]`.

    row: the entry of each segment. needed: whether a chunk has any wanted segment, one bool per chunk.
    """

    def __init__(self, manifest: Manifest, wanted: Array) -> None:
        rows = manifest.segment_rows()
        live = np.flatnonzero(wanted[rows])
        order = live[np.lexsort((rows[live], manifest.segments.chunk[live]))]
        chunk = manifest.segments.chunk[order]
        self.first: Array = np.searchsorted(chunk, np.arange(len(manifest.chunks) + 1))
        self.row: Array = rows[order]
        self.segment: Segments = manifest.segments.take(order)
        self.needed: Array = np.diff(self.first) > 0

    def bytes_of(self, chunks: Array) -> int:
        """How many bytes of files the chunks (bool, one per chunk) hold."""
        return int(self.segment.length[chunks[self.segment.chunk]].sum(dtype=np.int64))

    def holding(self, rows: Array) -> Array:
        """The chunks (bool, one per chunk) with a segment of any of these entries (bool, one per entry)."""
        found = np.zeros(len(self.needed), bool)
        found[self.segment.chunk[rows[self.row]]] = True
        return found
