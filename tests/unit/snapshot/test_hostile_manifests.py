"""Manifests that a store could be made to hold by someone who means harm: refused before anything is written."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import blake3
import pytest
import zstandard

from poorwill.engine.operations import Operations
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.requests import OpenRestore
from poorwill.errors import Corrupt, Unsupported
from poorwill.snapshot import limits, manifest, part_index
from poorwill.snapshot.columns import Blobs
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Kind, Manifest, Segments, Targets
from poorwill.store.base import Grant
from tests.support.small_manifest import MACHINE, SNAPSHOT_ID, small_manifest, table

Spoil = Callable[[Manifest], object]
PAGE = struct.Struct("<4sIII")
MEMORY_MAX = 200 << 20


def encoded(found: Manifest) -> bytes:
    return b"".join(manifest.encode(found))


def renamed(row: int, name: bytes) -> Spoil:
    def spoil(found: Manifest) -> None:
        names = list(found.entries.name)
        names[row] = name
        found.entries.name = Blobs.of(names)

    return spoil


def cell(where: str, row: int, value: int) -> Spoil:
    def spoil(found: Manifest) -> None:
        name, _, column = where.partition(".")
        getattr(getattr(found, name), column)[row] = value

    return spoil


def blobs(where: str, values: list[bytes]) -> Spoil:
    name, _, column = where.partition(".")
    return lambda found: setattr(getattr(found, name), column, Blobs.of(values))


def both(*spoils: Spoil) -> Spoil:
    return lambda found: [spoil(found) for spoil in spoils]


def appended(where: str, **row: Any) -> Spoil:
    """One more row at a table's end."""

    def spoil(found: Manifest) -> None:
        before = getattr(found, where)
        setattr(found, where, type(before).joined([before, table(type(before), [row])]))

    return spoil


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "the parent directory": (renamed(2, b".."), "named b'..'"),
    "the directory itself": (renamed(2, b"."), "named b'.'"),
    "an absolute path": (renamed(2, b"/etc/passwd"), "'/' or NUL"),
    "a path that climbs": (renamed(6, b"../../x"), "'/' or NUL"),
    "a NUL": (renamed(2, b"f\0"), "'/' or NUL"),
    "no name": (renamed(2, b""), "empty or overlong"),
    "a name too long": (renamed(6, b"x" * 256), "'name' of 256 bytes"),
    "the workspace has a name": (renamed(0, b"x"), "row 0"),
    "a duplicate": (renamed(2, b"d"), "repeated or out of order"),
    "names out of order": (renamed(2, b"c"), "repeated or out of order"),
    "a child of a symlink": (
        both(cell("entries.parent", 6, 4), cell("entries.kind", 4, Kind.SYMLINK)),
        "below something that is not a directory",
    ),
    "a child of a file": (cell("entries.parent", 6, 2), "below something that is not a directory"),
    "its own parent": (cell("entries.parent", 6, 6), "before its directory"),
    "a parent that comes later": (cell("entries.parent", 1, 6), "before its directory"),
    "a parent that does not exist": (cell("entries.parent", 6, 1 << 31), "before its directory"),
    "siblings apart": (appended("entries", kind=Kind.DIRECTORY, name=b"z"), "entries out of order"),
    "the workspace is a symlink": (cell("entries.kind", 0, Kind.SYMLINK), "row 0"),
    "a device": (cell("entries.kind", 5, 5), "unknown kind"),
    "a file type as mode": (cell("entries.mode", 2, 0o20644), "beyond permission bits"),
    "a file too large": (cell("entries.size", 2, (1 << 53) + 1), "a file above"),
    "a directory with a size": (cell("entries.size", 1, 1), "not a file"),
    "a symlink with content": (
        both(cell("entries.segments", 4, 1), cell("entries.segments", 2, 1)),
        "not a file",
    ),
    "a hardlink to itself": (cell("entries.link", 3, 3), "hardlink to something"),
    "a hardlink to a directory": (cell("entries.link", 3, 1), "hardlink to something"),
    "a hardlink to a symlink": (cell("entries.link", 3, 4), "hardlink to something"),
    "a hardlink to nothing": (cell("entries.link", 3, 7), "hardlink to nothing"),
    "a symlink without target": (cell("entries.link", 4, 1), "without a target"),
    "an empty target": (blobs("targets.target", [b""]), "symlink target"),
    "a target too long": (blobs("targets.target", [b"x" * 4096]), "'target' of 4096 bytes"),
    "a NUL in a target": (blobs("targets.target", [b"a\0b"]), "NUL"),
    "xattrs that are not listed": (cell("entries.xattrs", 2, 2), "xattr set"),
    "xattrs cut off": (blobs("xattr_sets.attributes", [b"\5\0\0"]), "inside a header"),
    "xattrs beyond their set": (blobs("xattr_sets.attributes", [struct.pack("<HI", 4, 1 << 31) + b"user"]), "inside"),
    "an xattr without a name": (blobs("xattr_sets.attributes", [struct.pack("<HI", 0, 0)]), "not allowed"),
    "overlapping extents": (cell("segments.file_offset", 1, 39), "overlap in their file"),
    "extents backwards": (cell("segments.file_offset", 0, 60), "overlap in their file"),
    "content beyond the file": (cell("entries.size", 2, 99), "beyond its file"),
    "an offset that wraps": (cell("segments.file_offset", 1, (1 << 64) - 10), "beyond the largest file"),
    "an empty segment": (cell("segments.length", 1, 0), "empty segment"),
    "beyond its chunk": (cell("segments.chunk_offset", 1, 11), "beyond its chunk"),
    "a chunk offset that wraps": (cell("segments.chunk_offset", 1, (1 << 32) - 1), "beyond its chunk"),
    "a chunk that is not listed": (cell("segments.chunk", 0, 2), "not listed"),
    "more segments than counted": (appended("segments", chunk=0, length=1), "another number"),
    "a count that wraps": (cell("entries.segments", 2, (1 << 32) - 1), "another number"),
    "overlapping chunks": (cell("chunks.offset", 1, 59), "overlap in their part"),
    "a chunk twice": (appended("chunks", offset=60, stored=30, raw=40, codec=1), "overlap in their part"),
    "a chunk beyond its part": (cell("chunks.stored", 0, 501), "(more bytes than it has raw)|(raw chunk)|beyond"),
    "a chunk at the end of its part": (cell("chunks.offset", 1, 471), "beyond its part"),
    "a chunk offset beyond all": (cell("chunks.offset", 1, (1 << 64) - 20), "beyond the largest part"),
    "an unlisted part": (cell("chunks.part", 1, 1), "not listed"),
    "an empty chunk": (cell("chunks.raw", 1, 0), "empty chunk"),
    "a huge chunk": (cell("chunks.raw", 1, (64 << 20) + 1), "raw bytes"),
    "a chunk stored larger than raw": (cell("chunks.stored", 1, 41), "more bytes than it has raw"),
    "a raw chunk of two sizes": (cell("chunks.stored", 0, 59), "another stored size"),
    "a part number too high": (cell("parts.number", 0, 64), "part number"),
    "a huge part": (cell("parts.size", 0, (1 << 43) + 1), "part larger"),
    "a part of a path": (blobs("parts.machine", [b"../../x"]), "belongs to"),
    "a part of no snapshot": (blobs("parts.snapshot_id", [b"x"]), "belongs to"),
    "digits that are not ASCII": (
        lambda found: setattr(found, "snapshot_id", "\u0662" + SNAPSHOT_ID[1:]),
        "names machine",
    ),
    "a machine that is a path": (lambda found: setattr(found, "machine", "a/../b"), "names machine"),
    "a clock beyond 64 bits": (lambda found: setattr(found, "scanned_at_ns", 1 << 70), "scanned_at_ns"),
}


@pytest.fixture(scope="module")
def operations() -> Iterator[Operations]:
    opened = Operations()
    yield opened
    opened.close()


def open_restore(operations: Operations, data: bytes, folder: Path) -> None:
    """Ask an engine to restore the manifest `data` into folder/workspace."""
    (folder / "manifest").write_bytes(data)
    context = Context("open_restore", 60.0, lambda question: Grant(path=str(folder / "manifest")))
    named = ManifestReference("manifests/x/y", len(data), blake3.blake3(data).hexdigest())
    request = OpenRestore(named, RestoreOrder(str(folder / "workspace")))
    operations.of(request)(request, context)


@pytest.mark.parametrize("case", HOSTILE)
def test_refused_before_anything_is_written(case: str, operations: Operations, tmp_path: Path) -> None:
    """Each rule has a manifest that breaks only it: the engine names object and rule, and makes no directory."""
    spoil, rule = HOSTILE[case]
    found = small_manifest()
    spoil(found)
    with pytest.raises(Corrupt, match=rule) as caught:
        open_restore(operations, encoded(found), tmp_path)
    assert "manifests/x/y" in caught.value.message or "xattr" in caught.value.message
    assert not (tmp_path / "workspace").exists()


def test_the_manifest_that_they_spoil_is_valid(tmp_path: Path) -> None:
    """Else the cases above would prove nothing."""
    found = manifest.decode(encoded(small_manifest()), "m")
    assert [found.entries.path(row) for row in range(7)] == [b"", b"d", b"f", b"h", b"l", b"p", b"d/g"]


def test_the_restores_own_journal_cannot_be_planted(operations: Operations, tmp_path: Path) -> None:
    """An entry of the journal's name could make a later restore skip chunks."""
    found = small_manifest()
    renamed(1, b".poorwill-restore")(found)
    with pytest.raises(Corrupt, match="poorwill-restore"):
        open_restore(operations, encoded(found), tmp_path)
    assert not (tmp_path / "workspace").exists()


def test_nesting_has_a_bound() -> None:
    """512 directories below each other pass, one more does not."""

    def nested(depth: int) -> bytes:
        below = [{"kind": Kind.DIRECTORY, "parent": row, "name": b"d"} for row in range(depth)]
        entries = [{"kind": Kind.DIRECTORY}, *below]
        return encoded(small_manifest(entries=entries, segments=[]))

    assert len(manifest.decode(nested(limits.DEPTH_MAX), "m").entries) == limits.DEPTH_MAX + 1
    with pytest.raises(Corrupt, match="nested deeper"):
        manifest.decode(nested(limits.DEPTH_MAX + 1), "m")


def page(kind: bytes, rows: int, raw: bytes, *, declared: int | None = None) -> bytes:
    frame = zstandard.ZstdCompressor(level=1).compress(raw) if raw else b""
    return PAGE.pack(kind, rows, len(raw) if declared is None else declared, len(frame)) + frame


def head(**rows: int) -> bytes:
    counts = dict.fromkeys(("parts", "chunks", "entries", "segments", "targets", "xattr_sets"), 0) | rows
    header = {"format": 1, "machine": MACHINE, "snapshot_id": SNAPSHOT_ID, "scanned_at_ns": 0, "rows": counts}
    return manifest.MAGIC + page(b"HEAD", 1, json.dumps(header).encode())


@cache
def bombs() -> dict[str, bytes]:
    """Small manifests that ask for gigabytes."""
    zeros = bytes(limits.PAGE_RAW_BYTES_MAX)
    long_name = bytes(62) + (len(zeros) - 66).to_bytes(4, "little") + zeros[: len(zeros) - 66]
    targets = (4095).to_bytes(4, "little")
    planes = b"".join(bytes([b]) * 16000 for b in targets) + b"x" * (4095 * 16000)
    segments = bytes(Segments.row_bytes_max() * limits.PAGE_ROWS_MAX)
    return {
        "a page that declares 4 GiB": head(entries=1) + page(b"ENTR", 1, b"x", declared=(1 << 32) - 1),
        "a frame that is larger than its page says": head(entries=1) + page(b"ENTR", 1, zeros + b"x", declared=200),
        "a name of a whole page": head(entries=1) + page(b"ENTR", 1, long_name[: len(zeros)]),
        "rows beyond the limit": head(entries=1 << 26) + page(b"END ", 0, b""),
        "rows that never come": head(entries=1 << 25, segments=1 << 26) + page(b"END ", 0, b""),
        "a page of too many rows": head(segments=1 << 26) + page(b"SEGM", 1 << 17, b"x"),
        "rows without bytes": head(segments=1 << 26) + page(b"SEGM", 1 << 16, b"x"),
        "pages of long targets": head(targets=160_000) + page(b"TARG", 16000, planes) * 10 + page(b"END ", 0, b""),
        "pages without end": head(segments=1 << 26) + page(b"SEGM", limits.PAGE_ROWS_MAX, segments) * 1000,
        "negative rows": head(entries=-1) + page(b"END ", 0, b""),
        "a header of a whole page": manifest.MAGIC + page(b"HEAD", 1, b'{"a": "' + b"x" * (1 << 17) + b'"}'),
        "a header nested deeply": manifest.MAGIC + page(b"HEAD", 1, b"[" * 60_000),
        "a header that is a list": manifest.MAGIC + page(b"HEAD", 1, b"[]"),
        "a number of 60,000 digits": manifest.MAGIC + page(b"HEAD", 1, b'{"format": ' + b"9" * 60_000 + b"}"),
    }


@pytest.mark.parametrize("case", bombs())
def test_small_objects_cannot_ask_for_much_memory(case: str) -> None:
    """Whatever sizes a manifest of some KB declares, decoding it fails within one page's worth of memory."""
    data = bombs()[case]
    assert len(data) < 2 << 20
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            manifest.decode(data, "m")
        assert tracemalloc.get_traced_memory()[1] < MEMORY_MAX
    finally:
        tracemalloc.stop()


def test_a_part_index_cannot_ask_for_much_memory() -> None:
    """An index that decompresses far beyond its own size, or lists more chunks than the part has bytes, is refused."""
    width = IndexRows.row_bytes_max()
    for rows in (100_000, limits.CHUNKS_MAX):
        frame = zstandard.ZstdCompressor(level=1).compress(bytes(rows * width))
        trailer = struct.pack("<25sBxxIII16x", SNAPSHOT_ID.encode(), 0, rows, rows * width, len(frame))
        tail = frame + trailer + blake3.blake3(frame + trailer).digest() + b"PWPARTv1"
        tracemalloc.start()
        try:
            with pytest.raises(Corrupt, match="impossible values"):
                part_index.decode(tail, len(tail) + (1 << 30), "p")
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_an_index_lists_only_chunks_that_can_be() -> None:
    """Chunks that no manifest may hold are refused in a part's own index too: verification decodes from it."""
    good = {"stored": 10, "raw": 10, "codec": 0}
    assert len(part_index.decode(*_part([good]), "p")[1]) == 1
    for bad in ({"raw": (64 << 20) + 1, "codec": 1}, {"raw": 9, "codec": 1}, {"stored": 0}, {"raw": 11}):
        with pytest.raises(Corrupt, match="impossible size"):
            part_index.decode(*_part([good, {**good, **bad, "offset": 10}]), "p")
    with pytest.raises(Corrupt, match="does not cover"):
        part_index.decode(*_part([good, {**good, "offset": 11}]), "p")


def _part(rows: list[dict[str, Any]]) -> tuple[bytes, int]:
    tail = part_index.encode(SNAPSHOT_ID, 0, table(IndexRows, rows))
    return tail, sum(row["stored"] for row in rows) + len(tail)


def test_a_later_version_is_not_guessed_at() -> None:
    """A manifest of version 2 is Unsupported whatever else is in it, and says what to do."""
    header = {"format": 2, "machine": "", "snapshot_id": "", "scanned_at_ns": 0, "rows": {}}
    for found in (header, {"format": 2}, {**header, "rows": None}):
        data = manifest.MAGIC + page(b"HEAD", 1, json.dumps(found).encode()) + page(b"END ", 0, b"")
        with pytest.raises(Unsupported, match=r"^manifests/m: version 2 of the manifest format.*use a newer poorwill$"):
            manifest.decode(data, "manifests/m")
    for wrong in ("1", True, 1.0, 0, -1, None):
        data = manifest.MAGIC + page(b"HEAD", 1, json.dumps({**header, "format": wrong}).encode())
        with pytest.raises(Corrupt, match=r"^manifests/m: its version of the manifest format is "):
            manifest.decode(data, "manifests/m")


@pytest.mark.parametrize("field", ["machine", "snapshot_id", "scanned_at_ns", "rows"])
def test_a_header_that_lacks_a_field(field: str) -> None:
    """Or has one of another type; what it has besides is ignored."""
    data = encoded(small_manifest())
    _, _, _, stored = PAGE.unpack_from(data, len(manifest.MAGIC))
    begins, ends = len(manifest.MAGIC) + PAGE.size, len(manifest.MAGIC) + PAGE.size + stored
    header = json.loads(zstandard.decompress(data[begins:ends]))

    def with_header(changed: dict[str, Any]) -> bytes:
        return manifest.MAGIC + page(b"HEAD", 1, json.dumps(changed).encode()) + data[ends:]

    assert encoded(manifest.decode(with_header({**header, "later": [1]}), "m")) == data
    for changed in ({k: v for k, v in header.items() if k != field}, {**header, field: [7]}):
        with pytest.raises(Corrupt, match=f"^m: its header page: field '{field}' is (missing|\\[7\\], expected)"):
            manifest.decode(with_header(changed), "m")


def test_a_part_of_a_later_version() -> None:
    """The last byte of a part says its version; a byte that is no digit is no part's."""
    tail = part_index.encode(SNAPSHOT_ID, 0, table(IndexRows, []))
    assert tail.endswith(b"PWPARTv1")
    for read in (lambda data: part_index.decode(data, len(data), "parts/m"), part_index_trailer):
        with pytest.raises(Unsupported, match=r"^parts/m: version 2 of the part index format.*use a newer poorwill$"):
            read(tail[:-1] + b"2")
        for wrong in (b"0", b"x", b"\xb2"):
            with pytest.raises(Corrupt, match=r"^parts/m: "):
                read(tail[:-1] + wrong)


def part_index_trailer(data: bytes) -> part_index.Trailer:
    return part_index.read_trailer(data, "parts/m")


def test_long_targets_stay_within_a_page() -> None:
    """A writer cuts pages so that a reader's bound on them holds, also where every row is as long as can be."""
    count = 20_000
    found = small_manifest()
    found.targets = Targets(Blobs.of([b"x" * limits.TARGET_BYTES_MAX] * count))
    data, sizes, at = encoded(found), [], len(manifest.MAGIC)
    while at < len(data):
        kind, _, raw, stored = PAGE.unpack_from(data, at)
        sizes.append((kind, raw))
        at += PAGE.size + stored
    assert max(raw for _, raw in sizes) <= limits.PAGE_RAW_BYTES_MAX
    assert sum(kind == b"TARG" for kind, _ in sizes) == 2
