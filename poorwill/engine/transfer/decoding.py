"""One stored chunk back to raw bytes, every hash checked."""

from __future__ import annotations

import blake3

from poorwill.engine.pool import Bench
from poorwill.engine.transfer.buffers import new_buffer
from poorwill.errors import Corrupt
from poorwill.snapshot import limits
from poorwill.snapshot.tables import Chunks


def chunk_buffer(bench: Bench, name: str, size: int) -> memoryview:
    """The thread's scratch of that name for a chunk of `size` bytes, valid until it is asked for again."""
    # Two sizes only: a buffer for every size a manifest can name would add up to any amount of memory.
    whole = limits.CHUNK_BYTES if size <= limits.CHUNK_BYTES else limits.CHUNK_RAW_BYTES_MAX
    return bench.tool(f"{name}-{whole}", lambda: bench.toolset.pinned(new_buffer(whole)))[:size]


def check_stored(chunks: Chunks, row: int, stored: memoryview, key: str) -> None:
    """Corrupt unless the stored bytes hash to what the manifest says."""
    found, expected = blake3.blake3(stored).hexdigest(), chunks.stored_hash[row].tobytes().hex()
    if found != expected:
        at = int(chunks.offset[row])
        raise Corrupt(
            f"{key}: bytes {at} to {at + len(stored)} hash to {found}, expected {expected}",
            object=key, found=found, expected=expected,
        )  # fmt: skip


def decode(bench: Bench, chunks: Chunks, row: int, stored: memoryview, key: str) -> memoryview:
    """The chunk's raw bytes: a view of `stored` or of the thread's scratch, valid until its next call. Corrupt, before
    anything is decoded, when the stored hash differs; Corrupt when the raw one does."""
    check_stored(chunks, row, stored, key)
    return decode_checked(bench, chunks, row, stored, key)


def decode_checked(bench: Bench, chunks: Chunks, row: int, stored: memoryview, key: str) -> memoryview:
    """As `decode`, for stored bytes whose hash was compared already."""
    codec_id, raw_hash = int(chunks.codec[row]), chunks.raw_hash[row].tobytes()
    if codec_id == 0:
        if raw_hash != chunks.stored_hash[row].tobytes():
            raise Corrupt(f"{key}: a raw chunk with two different hashes in the manifest")
        return stored
    codec = bench.tool(f"codec-{codec_id}", lambda: bench.toolset.codec(codec_id))
    raw = chunk_buffer(bench, "raw", int(chunks.raw[row]))
    try:
        codec.decode(stored, raw)
    except Corrupt as error:
        raise Corrupt(f"{key}: chunk at byte {int(chunks.offset[row])}: {error.message}") from None
    found = blake3.blake3(raw).digest()
    if found != raw_hash:
        raise Corrupt(
            f"{key}: chunk at byte {int(chunks.offset[row])} decodes to bytes that hash to {found.hex()}, "
            f"expected {raw_hash.hex()}", object=key, found=found.hex(), expected=raw_hash.hex(),
        )  # fmt: skip
    return raw
