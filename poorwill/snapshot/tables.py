"""The tables a manifest holds: parts, chunks, entries, segments, symlink targets, xattr sets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import numpy as np

from poorwill.snapshot import keys, limits
from poorwill.snapshot.columns import Array, Blobs, Column, Table, blob, digest, ints


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

    SCHEMA: ClassVar[tuple[Column, ...]] = (
        blob("machine", limits.MACHINE_BYTES_MAX),
        blob("snapshot_id", limits.SNAPSHOT_ID_BYTES),
        ints("number", "u1"),
        ints("size", "<u8"),
    )

    machine: Blobs
    snapshot_id: Blobs
    number: Array
    size: Array

    def key(self, row: int) -> str:
        return keys.part(self.machine[row].decode(), self.snapshot_id[row].decode(), int(self.number[row]))


@dataclass(slots=True)
class Chunks(Table):
    """Where each chunk lies and what it must hash to (BLAKE3-256 of the stored and of the raw bytes)."""

    SCHEMA: ClassVar[tuple[Column, ...]] = (
        ints("part", "<u4"),
        ints("offset", "<u8"),
        ints("stored", "<u4"),
        ints("raw", "<u4"),
        ints("codec", "u1"),
        digest("stored_hash"),
        digest("raw_hash"),
    )

    part: Array
    offset: Array
    stored: Array
    raw: Array
    codec: Array
    stored_hash: Array
    raw_hash: Array


@dataclass(slots=True)
class Entries(Table):
    """Everything in the workspace, breadth first; row 0 is the workspace itself.

    Rows of one directory's children are contiguous, sorted by name; `parent` never decreases. `link` is
    the row of a hardlink's file, or the row in `Targets` of a symlink; `xattrs` is 1 + the row of the set
    in `XattrSets`, 0 for none. `ctime_ns` and `inode` only serve to recognise unchanged files.
    """

    SCHEMA: ClassVar[tuple[Column, ...]] = (
        ints("parent", "<u4"),
        ints("kind", "u1"),
        ints("mode", "<u2"),
        ints("uid", "<u4"),
        ints("gid", "<u4"),
        ints("size", "<u8"),
        ints("mtime_ns", "<i8"),
        ints("ctime_ns", "<i8"),
        ints("inode", "<u8"),
        ints("link", "<u4"),
        ints("xattrs", "<u4"),
        ints("segments", "<u4"),
        blob("name", limits.NAME_BYTES_MAX),
    )

    parent: Array
    kind: Array
    mode: Array
    uid: Array
    gid: Array
    size: Array
    mtime_ns: Array
    ctime_ns: Array
    inode: Array
    link: Array
    xattrs: Array
    segments: Array
    name: Blobs

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

    SCHEMA: ClassVar[tuple[Column, ...]] = (
        ints("file_offset", "<u8"),
        ints("chunk", "<u4"),
        ints("chunk_offset", "<u4"),
        ints("length", "<u4"),
    )

    file_offset: Array
    chunk: Array
    chunk_offset: Array
    length: Array


@dataclass(slots=True)
class Targets(Table):
    """What symlinks point to."""

    SCHEMA: ClassVar[tuple[Column, ...]] = (blob("target", limits.TARGET_BYTES_MAX),)

    target: Blobs


@dataclass(slots=True)
class XattrSets(Table):
    """Distinct sets of extended attributes, each as snapshot/xattrs.py encodes it."""

    SCHEMA: ClassVar[tuple[Column, ...]] = (blob("attributes", limits.XATTR_SET_BYTES_MAX),)

    attributes: Blobs


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
