"""Manifest <-> bytes. The layout is specified in docs/snapshot-format.md.

A manifest is a row of pages, each a 16-byte header and one zstd frame. The first page is a JSON document
(format, snapshot, row counts), the last one is empty and closes it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import zstandard

from poorwill.errors import Corrupt
from poorwill.snapshot import documents, fields, limits, versions
from poorwill.snapshot.columns import Table
from poorwill.snapshot.invariants import check
from poorwill.snapshot.tables import Chunks, Entries, Manifest, Parts, Segments, Targets, XattrSets

MAGIC = b"PWMANIF1"
_PAGE = struct.Struct("<4sIII")  # kind, rows, raw bytes, stored bytes
_HEADER, _END = b"HEAD", b"END "
_TABLES: tuple[tuple[bytes, str, type[Table], int], ...] = (
    (b"PART", "parts", Parts, limits.PARTS_MAX),
    (b"CHNK", "chunks", Chunks, limits.CHUNKS_MAX),
    (b"ENTR", "entries", Entries, limits.ENTRIES_MAX),
    (b"SEGM", "segments", Segments, limits.SEGMENTS_MAX),
    (b"TARG", "targets", Targets, limits.ENTRIES_MAX),
    (b"XATT", "xattr_sets", XattrSets, limits.ENTRIES_MAX),
)
T = TypeVar("T", bound=Table)


@dataclass(frozen=True, slots=True)
class _Header:
    machine: str
    snapshot_id: str
    scanned_at_ns: int
    rows: Mapping[str, Any]  # how many each table has


def encode(manifest: Manifest) -> Iterator[bytes]:
    """The manifest's bytes, a page at a time. Deterministic for one zstd version."""
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)
    rows = {name: len(getattr(manifest, name)) for _, name, _, _ in _TABLES}
    header = fields.write(_Header(manifest.machine, manifest.snapshot_id, manifest.scanned_at_ns, rows))
    header["format"] = versions.BY_KIND["manifest"].written
    yield MAGIC
    yield _page(compressor, _HEADER, 1, json.dumps(header, sort_keys=True).encode())
    for kind, name, _, _ in _TABLES:
        table: Table = getattr(manifest, name)
        # Rows of blobs may be large (xattr sets up to 1 MiB): such pages hold fewer rows.
        rows_max = min(limits.PAGE_ROWS_MAX, limits.PAGE_RAW_BYTES_MAX // table.row_bytes_max())
        for start in range(0, len(table), rows_max):
            stop = min(start + rows_max, len(table))
            yield _page(compressor, kind, stop - start, table.pack(start, stop))
    yield _page(compressor, _END, 0, b"")


def _page(compressor: zstandard.ZstdCompressor, kind: bytes, rows: int, raw: bytes) -> bytes:
    stored = compressor.compress(raw) if raw else b""
    return _PAGE.pack(kind, rows, len(raw), len(stored)) + stored


def decode(data: bytes, what: str) -> Manifest:
    """The manifest in `data`, with every invariant of the format checked.

    `what` names the object in errors. Corrupt when the bytes are not a valid manifest, Unsupported when
    its version is not read. Allocates in proportion to bounded, declared sizes only.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise Corrupt(f"{what}: not a manifest: begins with {data[:8]!r}, expected {MAGIC!r}")
    pages = _pages(data, what)
    header = _header(pages, what)
    tables: dict[str, Table] = {}
    kind, rows, raw = next(pages)
    for wanted, name, table, rows_max in _TABLES:
        count = header.rows.get(name)
        if type(count) is not int or not 0 <= count <= rows_max:
            raise Corrupt(f"{what}: rows of {name}: {count!r}, expected 0 to {rows_max}")
        found: list[Table] = []
        seen = 0
        while kind == wanted:
            seen += rows
            if seen > count:
                raise Corrupt(f"{what}: more than the {count} declared rows of {name}")
            found.append(table.unpack(raw, rows, what))
            kind, rows, raw = next(pages)
        if seen != count:
            raise Corrupt(f"{what}: {seen} rows of {name}, expected {count}")
        tables[name] = table.joined(found)
    if kind != _END:
        raise Corrupt(f"{what}: page of kind {kind!r} out of order")
    manifest = Manifest(header.machine, header.snapshot_id, header.scanned_at_ns, **tables)  # type: ignore[arg-type]
    check(manifest, what)
    return manifest


def _header(pages: Iterator[tuple[bytes, int, bytes]], what: str) -> _Header:
    kind, _, raw = next(pages)
    if kind != _HEADER or len(raw) > 1 << 16:
        raise Corrupt(f"{what}: the first page is not a header")
    header = documents.parsed(raw, f"{what}: its header page")
    versions.check(header.get("format"), "manifest", what)
    return fields.read(_Header, header, f"{what}: its header page")


def _pages(data: bytes, what: str) -> Iterator[tuple[bytes, int, bytes]]:
    decompressor = zstandard.ZstdDecompressor()
    at, total = len(MAGIC), 0
    total_max = min(limits.PAGE_RAW_BYTES_MAX + limits.MANIFEST_RATIO_MAX * len(data), limits.MANIFEST_RAW_BYTES_MAX)
    while True:
        if at + _PAGE.size > len(data):
            raise Corrupt(f"{what}: ends after {len(data)} bytes, without its closing page")
        kind, rows, raw_bytes, stored_bytes = _PAGE.unpack_from(data, at)
        at += _PAGE.size
        if raw_bytes > limits.PAGE_RAW_BYTES_MAX or rows > limits.PAGE_ROWS_MAX or at + stored_bytes > len(data):
            raise Corrupt(f"{what}: a page at byte {at} declares impossible sizes")
        total += raw_bytes
        if total > total_max:
            raise Corrupt(f"{what}: its pages decompress to more than {total_max} bytes")
        if kind == _END:
            if at != len(data) or rows or raw_bytes or stored_bytes:
                raise Corrupt(f"{what}: bytes behind its closing page")
            yield kind, 0, b""
            return
        yield kind, rows, _decompressed(decompressor, data[at : at + stored_bytes], raw_bytes, what)
        at += stored_bytes


def _decompressed(decompressor: zstandard.ZstdDecompressor, frame: bytes, raw_bytes: int, what: str) -> bytes:
    try:
        # The frame's own size decides what zstandard allocates, so it is compared before decoding.
        if zstandard.frame_content_size(frame) != raw_bytes:
            raise Corrupt(f"{what}: a page's frame declares another size than its header")
        return decompressor.decompress(frame, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: a page cannot be decompressed: {error}") from None
