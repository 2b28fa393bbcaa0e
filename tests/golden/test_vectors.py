"""The test vectors of the specification are what the code reads and writes."""

from __future__ import annotations

import blake3
import numpy as np

from poorwill.snapshot import manifest, part_index
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Manifest
from tests.golden import reader
from tests.golden.vectors import PAGE, codec_vector, hex_blocks, raw_pages
from tests.support.small_manifest import MACHINE, SNAPSHOT_ID, small_manifest, table

HELLO = {
    "stored": 5,
    "raw": 5,
    "stored_hash": blake3.blake3(b"hello").digest(),
    "raw_hash": blake3.blake3(b"hello").digest(),
}


def described(part_bytes: int) -> Manifest:
    """The manifest that the page describes in words."""
    owner = {"machine": MACHINE.encode(), "snapshot_id": SNAPSHOT_ID.encode()}
    return small_manifest(
        parts=[{**owner, "number": 0, "size": part_bytes}],
        chunks=[HELLO],
        entries=[
            {"kind": 0, "mode": 0o755, "mtime_ns": 1_700_000_000_123_456_789},
            {"kind": 1, "mode": 0o644, "size": 5, "segments": 1, "name": b"a"},
            {"kind": 2, "mode": 0o777, "name": b"l"},
        ],
        segments=[{"length": 5}],
        targets=[{"target": b"a"}],
        xattr_sets=[],
    )


def test_the_part() -> None:
    """Its index is read, lists the chunk, and its bytes are what is written today up to zstd's freedom."""
    part, _ = hex_blocks()
    trailer, rows = part_index.decode(part, len(part), "part")
    assert (trailer.snapshot_id, trailer.number, len(rows)) == (SNAPSHOT_ID, 0, 1)
    assert part[:5] == b"hello" and rows.raw_hash[0].tobytes() == HELLO["raw_hash"]
    again = part_index.encode(SNAPSHOT_ID, 0, table(IndexRows, [HELLO]))
    assert part_index.decode(again, 5 + len(again), "part")[0].raw_bytes == trailer.raw_bytes
    assert reader.part_index(part, SNAPSHOT_ID, 0).keys() == {0}


def test_the_manifest() -> None:
    """Both readers read it; its raw pages are the listed ones, and those of the described manifest."""
    part, data = hex_blocks()
    pages = raw_pages()
    found = manifest.decode(data, "manifest")
    described_one = described(len(part))
    tables = {b"PART": "parts", b"CHNK": "chunks", b"ENTR": "entries", b"SEGM": "segments", b"TARG": "targets"}
    assert pages.keys() == tables.keys()
    for kind, name in tables.items():
        written, read = getattr(described_one, name), getattr(found, name)
        assert written.pack(0, len(written)) == read.pack(0, len(read)) == pages[kind], name
    assert np.array_equal(found.entries.kind, [0, 1, 2])
    entries = reader.manifest(data)["entries"]
    assert [entry["path"] for entry in entries] == [[], [b"a"], [b"l"]]


def test_the_planes() -> None:
    """The minimal reader decodes the vector of docs/codecs.md."""
    raw = codec_vector("raw")
    assert reader.joined_planes(codec_vector("planes"), len(raw)) == raw


def test_the_page_has_the_same_numbers() -> None:
    """Sizes that the text mentions are those of the vectors."""
    part, data = hex_blocks()
    text = PAGE.read_text()
    assert f"the trailer; {len(part)} bytes" in text and f"Its manifest, {len(data)} bytes" in text
