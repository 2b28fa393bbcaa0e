"""The tables a manifest holds: parts, chunks, entries, segments, symlink targets, xattr sets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import numpy as np

from poorwill.snapshot import keys, limits
from poorwill.snapshot.columns import Array, Blobs, Column, Digest, Int64, Table, UInt8, UInt16, UInt32, UInt64


class Kind(IntEnum):
    """What an entry is."""

    DIRECTORY = 0
    FILE = 1
    SYMLINK = 2
    HARDLINK = 3
    FIFO = 4


@dataclass(slots=True)
class Parts(Table):
    """Part objects whose chunks the snapshot uses: its own and borrowed ones."""

    machine: Annotated[Blobs, Column(bytes_max=limits.MACHINE_BYTES_MAX)]
    snapshot_id: Annotated[Blobs, Column(bytes_max=limits.SNAPSHOT_ID_BYTES)]
    number: UInt8
    size: UInt64

    def key(self, row: int) -> str:
        return keys.part(self.machine[row].decode(), self.snapshot_id[row].decode(), int(self.number[row]))


@dataclass(slots=True)
class Chunks(Table):
    """Where each chunk lies and what it must hash to (BLAKE3-256 of the stored and of the raw bytes)."""

    part: UInt32
    offset: UInt64
    stored: UInt32
    raw: UInt32
    codec: UInt8
    stored_hash: Digest
    raw_hash: Digest


@dataclass(slots=True)
class Entries(Table):
    """Everything in the workspace, breadth first; row 0 is the workspace itself.

    Rows of one directory's children are contiguous, sorted by name; `parent` never decreases. `link` is
    the row of a hardlink's file, or the row in `Targets` of a symlink; `xattrs` is 1 + the row of the set
    in `XattrSets`, 0 for none. `ctime_ns` and `inode` only serve to recognise unchanged files.
    """

    parent: UInt32
    kind: UInt8
    mode: UInt16
    uid: UInt32
    gid: UInt32
    size: UInt64
    mtime_ns: Int64
    ctime_ns: Int64
    inode: UInt64
    link: UInt32
    xattrs: UInt32
    segments: UInt32
    name: Annotated[Blobs, Column(bytes_max=limits.NAME_BYTES_MAX)]

    def path(self, row: int) -> bytes:
        """The entry's path below the workspace; b'' for the workspace itself."""
        names: list[bytes] = []
        while row:
            names.append(self.name[row])
            row = int(self.parent[row])
        return b"/".join(reversed(names))

    def children(self) -> tuple[Array, Array]:
        """(first, stop) rows of each row's children; equal where it has none. int64, one per row."""
        rows = np.arange(len(self), dtype=np.int64)
        parents = self.parent[1:].astype(np.int64)
        return np.searchsorted(parents, rows, "left") + 1, np.searchsorted(parents, rows, "right") + 1


@dataclass(slots=True)
class Segments(Table):
    """The content of files, file after file in entry order: `length` bytes at `file_offset` are found at
    `chunk_offset` of the raw `chunk`. What no segment covers is a hole and reads as zeros."""

    file_offset: UInt64
    chunk: UInt32
    chunk_offset: UInt32
    length: UInt32


@dataclass(slots=True)
class Targets(Table):
    """What symlinks point to."""

    target: Annotated[Blobs, Column(bytes_max=limits.TARGET_BYTES_MAX)]


@dataclass(slots=True)
class XattrSets(Table):
    """Distinct sets of extended attributes, each as snapshot/xattrs.py encodes it."""

    attributes: Annotated[Blobs, Column(bytes_max=limits.XATTR_SET_BYTES_MAX)]


@dataclass(slots=True)
class Manifest:
    """A whole snapshot but for its bytes. `scanned_at_ns` is the clock of the file times at the scan."""

    machine: str
    snapshot_id: str
    scanned_at_ns: int
    parts: Parts
    chunks: Chunks
    entries: Entries
    segments: Segments
    targets: Targets
    xattr_sets: XattrSets

    def segment_rows(self) -> Array:
        """The entry row each segment belongs to. int64."""
        return np.repeat(np.arange(len(self.entries), dtype=np.int64), self.entries.segments)

    def first_segments(self) -> Array:
        """The first segment of each entry, and the count of all behind the last. int64, rows + 1."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.entries.segments, dtype=np.int64)])
