"""The parts of a round: coded, sent, and part by part complete."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import blake3
import numpy as np

from poorwill.codecs.chooser import Chooser
from poorwill.engine.meter import Meter
from poorwill.engine.pack.chunk_records import OWN
from poorwill.engine.pack.round import Round
from poorwill.engine.pack.source_reader import SourceReader
from poorwill.engine.pool import Bench, Job, WorkPool
from poorwill.engine.protocol.answers import PartSent
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import new_buffer
from poorwill.engine.transfer.decoding import chunk_buffer
from poorwill.engine.transfer.sink import Sink
from poorwill.errors import UsageError
from poorwill.snapshot import limits, part_index
from poorwill.snapshot.columns import Array
from poorwill.snapshot.part_index import IndexRows
from poorwill.store.base import Piece

OpenSink = Callable[[], Sink]


class Packer:
    """Codes the chunks of rounds. One per engine; codec threads come from `pool`."""

    def __init__(self, pool: WorkPool, meter: Meter) -> None:
        self._pool, self._meter = pool, meter

    def pack(self, round_: Round, number: int, open_sink: OpenSink, context: Context) -> PartSent:
        """Code and send part `number` of the round; may be called for many parts at once, and again after
        an attempt failed. Returns what the control side needs to complete the upload; `bytes` is 0 when
        every chunk turned out to be known and there is nothing to complete."""
        if number not in round_.parts:
            raise UsageError(f"part {number} is not planned in this round")
        chunks = round_.parts[number]
        round_.records.forget(chunks)
        round_.sizes.pop(number, None)
        sink = _LazySink(open_sink)
        try:
            self._pool.run(Job(number, partial(self._code, round_, number, sink), context), chunks.tolist())
            rows = _index_rows(round_, chunks)
            if not len(rows):
                return sent(number, rows, 0, [])
            size, pieces = sink.get().finish(lambda: part_index.encode(round_.settings.snapshot_id, number, rows))
        except BaseException:
            sink.abandon()
            raise
        round_.sizes[number] = size
        return sent(number, rows, size, pieces)

    def _code(self, round_: Round, number: int, sink: _LazySink, bench: Bench, chunk: int) -> None:
        policy, portable = round_.settings.codec, round_.settings.portable
        chooser_of(bench, policy, portable=portable)  # opens the GPU, for which buffers are pinned
        raw_buffer = bench.tool("raw", lambda: bench.toolset.pinned(new_buffer(limits.CHUNK_BYTES)))
        reader = bench.tool("reader", SourceReader)
        size, torn = reader.read(round_.scan, round_.plan, chunk, raw_buffer)
        if torn:
            with round_.lock:
                round_.torn.update((t.row, t) for t in torn)
        raw = raw_buffer[:size]
        raw_hash = blake3.blake3(raw).digest()
        self._meter.add(read_bytes=size)
        if not round_.records.claim(chunk, raw_hash, size):
            return
        codec, data, stored_hash = encode(bench, raw, raw_hash, policy, portable=portable)
        offset = sink.get().append(data)
        self._meter.add(coded_bytes=len(data))
        round_.records.wrote(chunk, number, offset, len(data), codec, stored_hash)


def chooser_of(bench: Bench, policy: str, *, portable: bool) -> Chooser:
    """The thread's own."""
    return bench.tool(f"chooser-{policy}-{portable}", lambda: bench.toolset.chooser(policy, portable=portable))


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


def sent(number: int, rows: IndexRows, size: int, pieces: Sequence[Piece]) -> PartSent:
    """What the control side needs to complete the upload of a part of `size` bytes."""
    raw_bytes, stored_bytes = (int(column.sum(dtype=np.int64)) for column in (rows.raw, rows.stored))
    return PartSent(number, size, tuple(pieces), len(rows), raw_bytes, stored_bytes)


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
    own = own[np.argsort(records.chunks.offset[own], kind="stable")]
    rows = records.chunks.take(own)
    return IndexRows(round_.sources[own], *(getattr(rows, column.name) for column in rows.SCHEMA[1:]))
