"""Manifests made by hand, also such as no scan would ever give."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from poorwill.snapshot.columns import Blobs, Table
from poorwill.snapshot.tables import Chunks, Entries, Kind, Manifest, Parts, Segments, Targets, XattrSets
from poorwill.snapshot.xattrs import encoded

MACHINE = "box-1"
SNAPSHOT_ID = "20260102T030405Z-0badcafe"
T = TypeVar("T", bound=Table)


def table(kind: type[T], rows: list[dict[str, Any]]) -> T:
    """A table of those rows; columns a row does not name are zero or empty."""
    columns: list[Any] = []
    for column in kind.SCHEMA:
        if not column.width:
            columns.append(Blobs.of([row.get(column.name, b"") for row in rows]))
        elif column.dtype == "32u1":
            data = b"".join(row.get(column.name, bytes(32)) for row in rows)
            columns.append(np.frombuffer(data, np.uint8).reshape(-1, 32).copy())
        else:
            columns.append(np.array([row.get(column.name, 0) for row in rows], column.dtype))
    return kind(*columns)


def small_manifest(**tables: list[dict[str, Any]]) -> Manifest:
    """A valid manifest with every kind of entry, in which whole tables can be replaced.

    0 the workspace, 1 d/, 2 f (100 bytes: 40, a hole, 50), 3 h (a hardlink to f), 4 l (a symlink), 5 p (a
    FIFO), 6 d/g (10 bytes).
    """
    rows: dict[str, list[dict[str, Any]]] = {
        "parts": [{"machine": MACHINE.encode(), "snapshot_id": SNAPSHOT_ID.encode(), "number": 0, "size": 500}],
        "chunks": [
            {"part": 0, "offset": 0, "stored": 60, "raw": 60, "codec": 0},
            {"part": 0, "offset": 60, "stored": 30, "raw": 40, "codec": 1},
        ],
        "entries": [
            {"kind": Kind.DIRECTORY, "mode": 0o755},
            {"kind": Kind.DIRECTORY, "mode": 0o755, "name": b"d"},
            {"kind": Kind.FILE, "mode": 0o644, "size": 100, "segments": 2, "name": b"f", "xattrs": 1, "mtime_ns": -5},
            {"kind": Kind.HARDLINK, "mode": 0o644, "link": 2, "name": b"h"},
            {"kind": Kind.SYMLINK, "mode": 0o777, "link": 0, "name": b"l"},
            {"kind": Kind.FIFO, "mode": 0o600, "name": b"p"},
            {"kind": Kind.FILE, "mode": 0o644, "parent": 1, "size": 10, "segments": 1, "name": b"g"},
        ],
        "segments": [
            {"file_offset": 0, "chunk": 1, "chunk_offset": 0, "length": 40},
            {"file_offset": 50, "chunk": 0, "chunk_offset": 0, "length": 50},
            {"file_offset": 0, "chunk": 0, "chunk_offset": 50, "length": 10},
        ],
        "targets": [{"target": b"d/g"}],
        "xattr_sets": [{"attributes": encoded({b"user.note": b"text"})}],
    }
    rows.update(tables)
    return Manifest(
        MACHINE,
        SNAPSHOT_ID,
        1_700_000_000_000_000_000,
        table(Parts, rows["parts"]),
        table(Chunks, rows["chunks"]),
        table(Entries, rows["entries"]),
        table(Segments, rows["segments"]),
        table(Targets, rows["targets"]),
        table(XattrSets, rows["xattr_sets"]),
    )
