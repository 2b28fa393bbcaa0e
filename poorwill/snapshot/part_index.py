"""The end of a part object: a table of its chunks, by which it can be adopted and checked on its own.

chunks | index (one zstd frame of a packed `IndexRows` table) | trailer (96 bytes)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import blake3
import numpy as np
import zstandard

from poorwill.errors import Corrupt
from poorwill.snapshot import ids, limits, versions
from poorwill.snapshot.columns import Digest, Table, UInt8, UInt32, UInt64
from poorwill.snapshot.tables import Chunks

MAGIC = b"PWPARTv"
"""Behind it stands the version of the index, one digit: the last byte of a part."""
_TRAILER = struct.Struct("<25sBxxIII16x32s7sc")  # id, number, rows, raw bytes, stored bytes, BLAKE3, magic, version
TRAILER_BYTES = _TRAILER.size


@dataclass(slots=True)
class IndexRows(Table):
    """One row per chunk, by offset. `source` identifies what was read for it (see plan.source_keys)."""

    source: Digest
    offset: UInt64
    stored: UInt32
    raw: UInt32
    codec: UInt8
    stored_hash: Digest
    raw_hash: Digest

    def chunks(self, part: int) -> Chunks:
        """The same as rows of a manifest, in which the part has that row."""
        place = np.full(len(self), part, np.uint32)
        return Chunks(place, self.offset, self.stored, self.raw, self.codec, self.stored_hash, self.raw_hash)


def encode(snapshot_id: str, number: int, rows: IndexRows) -> bytes:
    """Index and trailer, to be written right behind the last chunk."""
    raw = rows.pack(0, len(rows))
    stored = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(raw)
    version = str(versions.BY_KIND["part index"].written).encode()
    head = _TRAILER.pack(snapshot_id.encode(), number, len(rows), len(raw), len(stored), bytes(32), MAGIC, version)
    return stored + head[:-40] + blake3.blake3(stored + head[:-40]).digest() + MAGIC + version


@dataclass(frozen=True, slots=True)
class Trailer:
    snapshot_id: str
    number: int
    rows: int
    raw_bytes: int
    stored_bytes: int
    digest: bytes

    @property
    def tail_bytes(self) -> int:
        """Bytes of index and trailer together."""
        return self.stored_bytes + TRAILER_BYTES


def read_trailer(tail: bytes, what: str) -> Trailer:
    """The trailer at the end of `tail`. Corrupt if there is none, or it declares impossible sizes; Unsupported for a
    version that is not read."""
    if len(tail) < TRAILER_BYTES or tail[-8:-1] != MAGIC or not tail[-1:].isdigit():
        raise Corrupt(f"{what}: does not end in a part's trailer: it is truncated or not a part")
    versions.check(int(tail[-1:]), "part index", what)
    name, number, rows, raw, stored, digest_, _, _ = _TRAILER.unpack(tail[-TRAILER_BYTES:])
    snapshot_id = name.decode("ascii", "replace")
    if (
        rows > limits.CHUNKS_MAX
        or raw != rows * sum(c.width for c in IndexRows.SCHEMA)
        or stored > raw + 1024
        or raw > limits.INDEX_RATIO_MAX * stored + 1024
        or number > limits.PART_NUMBER_MAX
        or not ids.is_snapshot_id(snapshot_id)
    ):
        raise Corrupt(f"{what}: its trailer declares impossible values")
    return Trailer(snapshot_id, number, rows, raw, stored, digest_)


def decode(tail: bytes, part_bytes: int, what: str) -> tuple[Trailer, IndexRows]:
    """The index in the last bytes of a part of `part_bytes`. Corrupt unless its hash and layout fit; Unsupported for a
    version that is not read."""
    trailer = read_trailer(tail, what)
    if trailer.tail_bytes > min(len(tail), part_bytes):
        raise Corrupt(f"{what}: its index has {trailer.tail_bytes} bytes, found {min(len(tail), part_bytes)}")
    tail = tail[-trailer.tail_bytes :]
    if trailer.rows > part_bytes - trailer.tail_bytes:
        raise Corrupt(f"{what}: an index of {trailer.rows} chunks for {part_bytes - trailer.tail_bytes} bytes")
    found = blake3.blake3(tail[:-40]).digest()
    if found != trailer.digest:
        raise Corrupt(f"{what}: its index hashes to {found.hex()}, expected {trailer.digest.hex()}")
    try:
        if zstandard.frame_content_size(tail) != trailer.raw_bytes:
            raise Corrupt(f"{what}: its index declares two different sizes")
        frame = tail[: trailer.stored_bytes]
        raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=trailer.raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"{what}: its index cannot be decompressed: {error}") from None
    rows = IndexRows.unpack(raw, trailer.rows, what)
    _check(rows, part_bytes - trailer.tail_bytes, what)
    return trailer, rows


def _check(rows: IndexRows, data_bytes: int, what: str) -> None:
    sizes = (rows.stored == 0) | (rows.stored > rows.raw) | (rows.raw > limits.CHUNK_RAW_BYTES_MAX)
    if (sizes | ((rows.codec == 0) & (rows.stored != rows.raw))).any():
        raise Corrupt(f"{what}: its index lists a chunk of impossible size")
    # Chunks lie gapless from byte 0 to the index, so that no byte of a part is outside every hash.
    ends = np.cumsum(rows.stored, dtype=np.uint64)
    starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]]) if len(rows) else ends
    if (rows.offset != starts).any() or (int(ends[-1]) if len(rows) else 0) != data_bytes:
        raise Corrupt(f"{what}: its index does not cover its {data_bytes} bytes of chunks exactly")
