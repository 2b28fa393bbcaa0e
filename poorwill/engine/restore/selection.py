"""What of a snapshot a restore wants: which entries, and where the bytes of their chunks belong."""

from __future__ import annotations

import os

import numpy as np

from poorwill.engine.journal import NAMES
from poorwill.errors import Corrupt, Refused
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.tables import Kind, Manifest, Segments


def selection_of(order: RestoreOrder) -> list[str]:
    """What makes a restore of one manifest the same as another: an interrupted one is continued by it alone."""
    return [*order.include, f"privileged={order.privileged}"]


def selected(manifest: Manifest, include: Globs) -> Array:
    """Which entries to restore (bool): those that match, all below them, and the directories above. Refused if nothing
    matches. Corrupt if the snapshot holds what a restore calls its own."""
    entries = manifest.entries
    first, stop = entries.children()
    for name in set(NAMES).intersection(entries.name.slice(int(first[0]), int(stop[0]))):
        raise Corrupt(f"the snapshot holds an entry {os.fsdecode(name)!r}, the restore's own mark")
    if not include:
        return np.ones(len(entries), bool)
    wanted = np.zeros(len(entries), bool)
    parent = entries.parent.tolist()
    for row in range(1, len(entries)):
        wanted[row] = wanted[parent[row]] or include.match(entries.path(row))
    linked = entries.link[wanted & (entries.kind == Kind.HARDLINK)]
    wanted[linked] = True
    for row in range(len(entries) - 1, 0, -1):
        if wanted[row]:
            wanted[parent[row]] = True
    wanted[0] = True
    if not wanted[1:].any():
        raise Refused("no entry of the snapshot matches --include: nothing was restored")
    return wanted


class Placement:
    """The segments of wanted entries, sorted by chunk: those of chunk `c` are `first[c]` to `first[c + 1]`. row: the
    entry of each. needed: whether a chunk has any, one bool per chunk."""

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
