"""Manifests and part indexes: whatever is valid comes back as it was, and no bytes make a reader fail improperly."""

from __future__ import annotations

import struct
from dataclasses import fields
from functools import cache
from typing import Any

import blake3
import numpy as np
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from poorwill.errors import PoorwillError
from poorwill.snapshot import manifest, part_index
from poorwill.snapshot.columns import Blobs, Table
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Kind, Manifest
from poorwill.snapshot.xattrs import decoded, encoded
from tests.support.small_manifest import MACHINE, SNAPSHOT_ID, small_manifest, table

PAGE = struct.Struct("<4sIII")
NAMES = st.binary(min_size=1, max_size=6).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))
PIECES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 99)), max_size=3)
ATTRIBUTES = st.dictionaries(NAMES, st.binary(max_size=9), max_size=2)
LEAVES = st.one_of(
    st.tuples(st.just(Kind.FILE), PIECES, ATTRIBUTES),
    st.tuples(st.just(Kind.SYMLINK), st.binary(min_size=1, max_size=9).filter(lambda t: b"\0" not in t)),
    st.tuples(st.just(Kind.HARDLINK)),
    st.tuples(st.just(Kind.FIFO)),
)
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda below: st.dictionaries(NAMES, below, max_size=4), max_leaves=20), max_size=5
)


def manifest_of(tree: dict[bytes, Any]) -> Manifest:
    """A valid manifest of `tree`: dictionaries are directories; a file is its (hole, length) pieces and attributes."""
    rows: dict[str, list[dict[str, Any]]] = {
        "entries": [{"kind": Kind.DIRECTORY}], "segments": [], "chunks": [], "targets": [], "xattr_sets": []
    }  # fmt: skip
    folders = [(0, tree)]
    for parent, children in folders:
        for name, what in sorted(children.items()):
            if isinstance(what, dict):
                folders.append((len(rows["entries"]), what))
                rows["entries"].append({"kind": Kind.DIRECTORY, "parent": parent, "name": name})
            else:
                rows["entries"].append({"parent": parent, "name": name, **_leaf(what, rows)})
    stored = sum(chunk["stored"] for chunk in rows["chunks"])
    owner = {"machine": MACHINE.encode(), "snapshot_id": SNAPSHOT_ID.encode()}
    return small_manifest(parts=[{**owner, "number": 7, "size": stored + 100}], **rows)


def _leaf(what: tuple[Any, ...], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    kind = what[0]
    if kind == Kind.HARDLINK:
        files = [row for row, entry in enumerate(rows["entries"]) if entry["kind"] == Kind.FILE]
        return {"kind": kind, "link": files[0]} if files else {"kind": Kind.FIFO, "mode": 0o600}
    if kind == Kind.SYMLINK:
        rows["targets"].append({"target": what[1]})
        return {"kind": kind, "link": len(rows["targets"]) - 1}
    if kind == Kind.FIFO:
        return {"kind": kind, "mtime_ns": -1}
    at, xattrs = 0, 0
    for hole, length in what[1]:
        at += hole
        offset = sum(chunk["stored"] for chunk in rows["chunks"])
        rows["chunks"].append({"offset": offset, "stored": length, "raw": length, "raw_hash": bytes([length]) * 32})
        chunk = {"chunk": len(rows["chunks"]) - 1, "length": length}
        rows["segments"].append({"file_offset": at, **chunk})
        at += length
    if what[2]:
        rows["xattr_sets"].append({"attributes": encoded(what[2])})
        xattrs = len(rows["xattr_sets"])
    return {"kind": kind, "size": at, "segments": len(what[1]), "xattrs": xattrs, "mtime_ns": at * 10**15}


def assert_same(ours: Table, theirs: Table) -> None:
    for column in fields(ours):
        a, b = getattr(ours, column.name), getattr(theirs, column.name)
        if isinstance(a, Blobs):
            assert list(a) == list(b), column.name
        else:
            assert a.dtype == b.dtype and np.array_equal(a, b), column.name


@given(TREES)
def test_a_valid_manifest_comes_back(tree: dict[bytes, Any]) -> None:
    """Every column of every table, for trees of any shape."""
    before = manifest_of(tree)
    after = manifest.decode(b"".join(manifest.encode(before)), "m")
    for name in ("parts", "chunks", "entries", "segments", "targets", "xattr_sets"):
        assert_same(getattr(before, name), getattr(after, name))
    for name in ("machine", "snapshot_id", "scanned_at_ns"):
        assert getattr(before, name) == getattr(after, name)


def test_tables_of_many_pages_come_back() -> None:
    """More rows than a page holds."""
    entries = [{"kind": Kind.DIRECTORY}] + [{"kind": Kind.FIFO, "name": b"%06d" % n, "inode": n} for n in range(70_000)]
    before = small_manifest(entries=entries, segments=[])
    data = b"".join(manifest.encode(before))
    assert data.count(b"ENTR") == 2
    assert_same(before.entries, manifest.decode(data, "m").entries)


@cache
def small() -> bytes:
    return b"".join(manifest.encode(small_manifest()))


@cache
def small_index() -> bytes:
    rows = [{"offset": at * 10, "stored": 10, "raw": 20, "codec": 1, "source": bytes([at]) * 32} for at in range(9)]
    return part_index.encode(SNAPSHOT_ID, 3, table(IndexRows, rows))


def spoiled(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    out = bytearray(data)
    for at, count, new in edits:
        at %= len(out) + 1
        out[at : at + count] = new
    return bytes(out)


EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=5)


def decodes_or_refuses(data: bytes) -> None:
    try:
        manifest.decode(data, "m")
    except PoorwillError as error:
        assert error.message


@given(EDITS)
def test_no_manifest_crashes_the_reader(edits: list[tuple[int, int, bytes]]) -> None:
    """Bytes replaced, inserted and removed anywhere: an error of ours, or a manifest that fulfils every rule."""
    decodes_or_refuses(spoiled(small(), edits))


@given(st.integers(0, 6), EDITS, st.integers(-2, 2))
def test_no_page_crashes_the_reader(which: int, edits: list[tuple[int, int, bytes]], more_rows: int) -> None:
    """The same inside a page, whose frame is made valid again: what gets past all checksums."""
    data, out, at, number = small(), [manifest.MAGIC], len(manifest.MAGIC), 0
    while at < len(data):
        kind, rows, raw_bytes, stored_bytes = PAGE.unpack_from(data, at)
        stored = data[at + PAGE.size : at + PAGE.size + stored_bytes]
        at += PAGE.size + stored_bytes
        if number == which and raw_bytes:
            raw = spoiled(zstandard.decompress(stored), edits)
            raw_bytes, stored = len(raw), zstandard.compress(raw)
            rows, stored_bytes = max(0, rows + more_rows), len(stored)
        out.append(PAGE.pack(kind, rows, raw_bytes, stored_bytes) + stored)
        number += 1
    decodes_or_refuses(b"".join(out))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    """Nor do bytes that were never a manifest, with or without its magic."""
    decodes_or_refuses(data)
    decodes_or_refuses(manifest.MAGIC + data)


@given(EDITS, st.integers(0, 1 << 40))
def test_no_part_index_crashes_the_reader(edits: list[tuple[int, int, bytes]], part_bytes: int) -> None:
    """Nor does what lies at the end of a part, whatever the part's size is said to be."""
    tail = spoiled(small_index(), edits)
    for size in (part_bytes, 90 + len(tail)):
        try:
            part_index.decode(tail, size, "p")
        except PoorwillError as error:
            assert error.message


@given(EDITS, st.integers(0, 12))
@settings(max_examples=60)
def test_no_index_rows_crash_the_reader(edits: list[tuple[int, int, bytes]], rows: int) -> None:
    """The same with frame, sizes and digest made valid again."""
    trailer = part_index.read_trailer(small_index(), "p")
    raw = spoiled(zstandard.decompress(small_index()[: trailer.stored_bytes]), edits)
    frame = zstandard.compress(raw)
    head = struct.pack("<25sBxxIII16x", SNAPSHOT_ID.encode(), 3, rows, len(raw), len(frame))
    tail = frame + head + blake3.blake3(frame + head).digest() + part_index.MAGIC + b"1"
    try:
        part_index.decode(tail, 90 + len(tail), "p")
    except PoorwillError as error:
        assert error.message


@given(st.dictionaries(NAMES, st.binary(max_size=300), max_size=5))
def test_attributes_come_back(attributes: dict[bytes, bytes]) -> None:
    """A set of extended attributes is the same after encoding, and equal sets encode alike."""
    assert decoded(encoded(attributes)) == attributes
    assert encoded(dict(reversed(attributes.items()))) == encoded(attributes)


@given(st.binary(max_size=60))
def test_no_attributes_crash_the_reader(data: bytes) -> None:
    """Any bytes as a set of extended attributes."""
    try:
        decoded(data)
    except PoorwillError as error:
        assert error.message
