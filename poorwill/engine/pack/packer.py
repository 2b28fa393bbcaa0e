"""One round of packing: what changed since the round before is planned, coded and sent, part by part."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import blake3
import numpy as np

from poorwill.codecs.chooser import Chooser
from poorwill.engine.context import Context
from poorwill.engine.meter import Meter
from poorwill.engine.pack import attributes
from poorwill.engine.pack.chunk_records import OWN, ChunkRecords
from poorwill.engine.pack.matching import racy, unchanged_since
from poorwill.engine.pack.scan import Scan
from poorwill.engine.pack.source_reader import SourceReader, Torn
from poorwill.engine.pool import Bench, Job, WorkPool
from poorwill.engine.transfer.buffers import new_buffer
from poorwill.engine.transfer.decoding import chunk_buffer
from poorwill.engine.transfer.sink import PieceTag, Sink
from poorwill.snapshot import limits, part_index, plan
from poorwill.snapshot.columns import Array, Blobs
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Chunks, Kind, Manifest, Parts

OpenSink = Callable[[], Sink]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A finished part of this very snapshot, found in the store by a run that continues a killed one."""

    number: int
    size: int
    rows: IndexRows


@dataclass(slots=True)
class Round:
    """What is known, what is to be done, and what has become of it.

    base_parts, base_chunks: everything already in the store that this snapshot may refer to.
    matched: for each entry its unchanged row in `previous`, or -1.
    """

    machine: str
    snapshot_id: str
    scan: Scan
    previous: Manifest
    base_parts: Parts
    base_chunks: Chunks
    matched: Array
    plan: plan.Plan
    sources: Array
    records: ChunkRecords
    parts: dict[int, Array]
    sizes: dict[int, int] = field(default_factory=dict)
    torn: dict[int, Torn] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def begin(
    machine: str,
    snapshot_id: str,
    scan: Scan,
    previous: Manifest,
    adopted: list[Adopted],
    numbers: list[int],
    parts: int,
) -> Round:
    """Plan a round: files unchanged since `previous` keep their segments; chunks that an adopted part holds
    are done; the rest is dealt to the part `numbers`, at most `parts` of them."""
    matched = unchanged_since(scan, previous.entries, previous.scanned_at_ns)
    attributes.fill(scan, matched, previous)
    entries = scan.entries
    rows = np.flatnonzero((entries.kind == Kind.FILE) & (matched < 0))
    extents = {row: found for row, found in scan.extents.items() if matched[row] < 0}
    planned = plan.plan_chunks(entries.size, rows, scan.starts(rows), extents)
    sources = plan.source_keys(planned, entries).copy()
    # A racy file could change again within its tick: what was read from it must not be taken for it later.
    unsure = np.unique(planned.chunk_of_segments()[racy(entries, scan.scanned_at_ns)[planned.row]])
    sources[unsure] = 0
    base_parts, base_chunks = _with_adopted(machine, snapshot_id, previous, adopted)
    records = ChunkRecords(len(planned), base_chunks)
    done = match_sources(sources, adopted, len(previous.chunks))
    for chunk, row in done.items():
        records.adopt(chunk, row, base_chunks.raw_hash[row])
    todo = np.setdiff1d(np.arange(len(planned)), np.fromiter(done, np.int64, len(done)))
    raw = planned.raw_bytes()
    count = plan.parts_for(int(raw.sum()), parts)
    shares = plan.split_parts(raw[todo], numbers[:count])
    return Round(
        machine, snapshot_id, scan, previous, base_parts, base_chunks, matched, planned, sources, records,
        {number: todo[share] for number, share in shares},
    )  # fmt: skip


def _with_adopted(machine: str, snapshot_id: str, previous: Manifest, adopted: list[Adopted]) -> tuple[Parts, Chunks]:
    parts, chunks = [previous.parts], [previous.chunks]
    for found in adopted:
        row = sum(map(len, parts))
        parts.append(one_part(machine, snapshot_id, found.number, found.size))
        rows = found.rows
        place = np.full(len(rows), row, np.uint32)
        chunks.append(Chunks(place, rows.offset, rows.stored, rows.raw, rows.codec, rows.stored_hash, rows.raw_hash))
    return Parts.joined(parts), Chunks.joined(chunks)


def one_part(machine: str, snapshot_id: str, number: int, size: int) -> Parts:
    return Parts(
        Blobs.of([machine.encode()]),
        Blobs.of([snapshot_id.encode()]),
        np.array([number], np.uint8),
        np.array([size], np.uint64),
    )


def match_sources(sources: Array, adopted: list[Adopted], first_row: int) -> dict[int, int]:
    """Planned chunk -> row of an adopted one with the same source, counted from `first_row` part after part."""
    have: dict[bytes, int] = {}
    for found in adopted:
        for source in found.rows.source:
            have[source.tobytes()] = first_row
            first_row += 1
    have.pop(bytes(32), None)
    return {chunk: have[key] for chunk, key in enumerate(map(bytes, sources)) if key in have} if have else {}


class Packer:
    """Codes the chunks of a round. One per engine; codec threads come from `pool`."""

    def __init__(self, pool: WorkPool, meter: Meter, policy: str, *, portable: bool = False) -> None:
        self._pool, self._meter, self._policy, self._portable = pool, meter, policy, portable

    def pack(self, round_: Round, number: int, open_sink: OpenSink, context: Context) -> dict[str, Any]:
        """Code and send part `number` of the round; may be called for many parts at once, and again after
        an attempt failed. Returns what the control side needs to complete the upload; `bytes` is 0 when
        every chunk turned out to be known and there is nothing to complete."""
        chunks = round_.parts[number]
        round_.records.forget(chunks)
        round_.sizes.pop(number, None)
        sink = _LazySink(open_sink)

        def work(bench: Bench, chunk: int) -> None:
            self._code(bench, round_, number, chunk, sink)

        try:
            job = self._pool.open(Job(number, work, context))
            self._pool.add(job, *chunks.tolist())
            self._pool.finish(job)
            rows = _index_rows(round_, chunks)
            if not len(rows):
                return sent(number, rows, 0, [])
            size, pieces = sink.get().finish(lambda: part_index.encode(round_.snapshot_id, number, rows))
        except BaseException:
            sink.abandon()
            raise
        round_.sizes[number] = size
        return sent(number, rows, size, pieces)

    def _code(self, bench: Bench, round_: Round, number: int, chunk: int, sink: _LazySink) -> None:
        chooser_of(bench, self._policy, portable=self._portable)  # opens the GPU, for which buffers are pinned
        raw_buffer: memoryview = bench.tool("raw", lambda: bench.toolset.pinned(new_buffer(limits.CHUNK_BYTES)))
        reader: SourceReader = bench.tool("reader", SourceReader)
        size, torn = reader.read(round_.scan, round_.plan, chunk, raw_buffer)
        if torn:
            with round_.lock:
                round_.torn.update((t.row, t) for t in torn)
        raw = raw_buffer[:size]
        raw_hash = blake3.blake3(raw).digest()
        self._meter.add(read_bytes=size)
        if not round_.records.claim(chunk, raw_hash, size):
            return
        codec, data, stored_hash = encode(bench, raw, raw_hash, self._policy, portable=self._portable)
        offset = sink.get().append(data)
        self._meter.add(coded_bytes=len(data))
        round_.records.wrote(chunk, number, offset, len(data), codec, stored_hash)


def chooser_of(bench: Bench, policy: str, *, portable: bool) -> Chooser:
    """The thread's own."""
    chooser: Chooser = bench.tool(
        f"chooser-{policy}-{portable}", lambda: bench.toolset.chooser(policy, portable=portable)
    )
    return chooser


def encode(
    bench: Bench, raw: memoryview, raw_hash: bytes, policy: str, *, portable: bool
) -> tuple[int, memoryview, bytes]:
    """A chunk's codec, its stored bytes (a view of `raw` or of the thread's scratch, valid until its next call), and
    their hash."""
    chooser = chooser_of(bench, policy, portable=portable)
    out = chunk_buffer(bench, "coded", max(len(raw), limits.CHUNK_BYTES))
    codec, length = chooser.encode(raw, out)
    if codec == 0:
        return codec, raw, raw_hash
    return codec, out[:length], blake3.blake3(out[:length]).digest()


def sent(number: int, rows: IndexRows, size: int, pieces: list[PieceTag]) -> dict[str, Any]:
    """What the control side needs to complete the upload of a part of `size` bytes."""
    return {
        "part": number,
        "bytes": size,
        "pieces": pieces,
        "chunks": len(rows),
        "raw_bytes": int(rows.raw.sum(dtype=np.int64)),
        "stored_bytes": int(rows.stored.sum(dtype=np.int64)),
    }


class _LazySink:
    """A sink that is opened with the first byte: parts of known chunks then cost nothing."""

    def __init__(self, open_sink: OpenSink) -> None:
        self._open, self._lock = open_sink, threading.Lock()
        self._sink: Sink | None = None

    def get(self) -> Sink:
        with self._lock:
            if self._sink is None:
                self._sink = self._open()
            return self._sink

    def abandon(self) -> None:
        if self._sink is not None:
            self._sink.abandon()


def _index_rows(round_: Round, chunks: Array) -> IndexRows:
    records = round_.records
    own = chunks[records.place[chunks] == OWN]
    own = own[np.argsort(records.offset[own], kind="stable")]
    return IndexRows(
        round_.sources[own],
        records.offset[own],
        records.stored[own],
        records.raw[own],
        records.codec[own],
        records.stored_hash[own],
        records.raw_hash[own],
    )


def threads_of_this_machine() -> int:
    """Codec threads: one per core this process may use, at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0))))
