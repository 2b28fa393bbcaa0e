"""A snapshot becoming another one of the same content that any CPU reads.

Chunks of codecs that need more than a CPU are decoded and coded anew; all others are copied as they are stored.
Nothing of the old parts is used by the new snapshot, so that the old one can be removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import blake3
import numpy as np

from poorwill.codecs import registry
from poorwill.engine.meter import Meter
from poorwill.engine.pack.packer import OpenSink, encode, sent
from poorwill.engine.pack.round import Adopted, match_sources, parts_of
from poorwill.engine.pool import Bench
from poorwill.engine.protocol.answers import ConvertPlanned, PartSent
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.decoding import check_stored, decode
from poorwill.engine.transfer.fetch import Reader, Source
from poorwill.engine.transfer.part_reading import check_against_index, read_index, runs_of, stored_chunks
from poorwill.engine.transfer.sink import Sink
from poorwill.errors import UsageError
from poorwill.snapshot import limits, part_index, plan
from poorwill.snapshot.columns import Array
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Chunks, Manifest

OpenSource = Callable[[str], Source]
PARTS_AT_ONCE = 4
"""So that parts become whole one after another, for a run that continues a killed one. And each that is being written
holds the buffer of a piece: of large pieces there are no more than these (see transfers.py)."""


class ConvertRun:
    """One conversion; `part` may be called for many parts at once, and again after an attempt failed.

    `planned` maps the numbers of the parts to be written to the rows of the source's chunks that go there. POLICY is by
    which chunks are coded anew, portably.
    """

    POLICY = "auto"

    def __init__(
        self, source: Manifest, snapshot_id: str, adopted: list[Adopted], reader: Reader, meter: Meter
    ) -> None:
        """adopted: finished parts of this very conversion."""
        self.source, self.snapshot_id = source, snapshot_id
        self._reader, self._meter = reader, meter
        chunks = source.chunks
        codecs = np.unique(chunks.codec).tolist()
        self._decoded = np.isin(chunks.codec, [codec for codec in codecs if registry.needs(codec) is not None])
        self._sources = source_keys(source)
        # `part` holds part numbers until all are known.
        self._chunks = replace(chunks, **{c.name: getattr(chunks, c.name).copy() for c in Chunks.SCHEMA})
        self._done = np.zeros(len(chunks), bool)
        self._sizes: dict[int, int] = {}
        self._turns = threading.BoundedSemaphore(PARTS_AT_ONCE)
        self._adopt(adopted)
        self.planned = self._plan({found.number for found in adopted})

    def _adopt(self, adopted: list[Adopted]) -> None:
        rows = IndexRows.joined([found.rows for found in adopted])
        numbers = np.repeat([found.number for found in adopted], [len(found.rows) for found in adopted])
        for chunk, row in match_sources(self._sources, adopted, 0).items():
            self._chunks.part[chunk] = numbers[row]
            for name in ("offset", "stored", "codec", "stored_hash"):
                getattr(self._chunks, name)[chunk] = getattr(rows, name)[row]
            self._done[chunk] = True
        self._sizes = {found.number: found.size for found in adopted}

    def _plan(self, used: set[int]) -> dict[int, Array]:
        chunks = self.source.chunks
        order = np.lexsort((chunks.offset, chunks.part))
        todo = order[~self._done[order]]
        raw = chunks.raw[todo]
        free = [number for number in range(limits.PART_NUMBER_MAX + 1) if number not in used]
        numbers = [number for number in free if number < limits.PARTS] or free[:1]
        count = plan.parts_for(int(raw.sum(dtype=np.int64)), len(numbers))
        return {number: todo[share] for number, share in plan.split_parts(raw, numbers[:count])}

    def summary(self) -> ConvertPlanned:
        """What is to be done: raw bytes by part, stored bytes to read, and how much of it is coded anew."""
        chunks = self.source.chunks
        todo = ~self._done
        return ConvertPlanned(
            parts={number: int(chunks.raw[rows].sum(dtype=np.int64)) for number, rows in self.planned.items()},
            chunks=int(todo.sum()),
            stored_bytes=int(chunks.stored[todo].sum(dtype=np.int64)),
            coded_chunks=int((todo & self._decoded).sum()),
            coded_raw_bytes=int(chunks.raw[todo & self._decoded].sum(dtype=np.int64)),
        )

    def part(self, number: int, open_source: OpenSource, open_sink: OpenSink, context: Context) -> PartSent:
        """Write one planned part. Returns what the control side needs to complete the upload. Corrupt at the first
        byte of the source that differs."""
        if number not in self.planned:
            raise UsageError(f"part {number} is not planned in this conversion")
        rows = self.planned[number]
        with self._turn(context):
            sink = open_sink()
            try:
                index = self._write(number, rows, open_source, sink, context)
                table = index.take(np.argsort(index.offset, kind="stable"))
                size, pieces = sink.finish(lambda: part_index.encode(self.snapshot_id, number, table))
            except BaseException:
                sink.abandon()
                raise
        context.check()  # an attempt that was given up must not overwrite what a later one did
        for name in ("offset", "stored", "codec", "stored_hash"):
            getattr(self._chunks, name)[rows] = getattr(index, name)
        self._chunks.part[rows] = number
        self._done[rows] = True
        self._sizes[number] = size
        return sent(number, table, size, pieces)

    @contextmanager
    def _turn(self, context: Context) -> Iterator[None]:
        while not self._turns.acquire(timeout=0.5):
            context.check()
        try:
            yield
        finally:
            self._turns.release()

    def _write(self, number: int, rows: Array, open_source: OpenSource, sink: Sink, context: Context) -> IndexRows:
        """Append the chunks at `rows` to the sink; returns what has become of each, in this order."""
        chunks, sizes = self.source.chunks, self.source.chunks.stored[rows]
        index = IndexRows(
            self._sources[rows], np.zeros(len(rows), np.uint64), chunks.stored[rows], chunks.raw[rows],
            chunks.codec[rows], chunks.stored_hash[rows], chunks.raw_hash[rows],
        )  # fmt: skip
        for part_row in np.unique(chunks.part[rows]).tolist():
            key = self.source.parts.key(part_row)
            places = np.flatnonzero(chunks.part[rows] == part_row)
            listed = rows[places]

            def work(bench: Bench, data: memoryview, places: list[int], key: str = key) -> None:
                for place, stored in stored_chunks(data, places, sizes):
                    self._take(bench, int(rows[place]), stored, key, index, place, sink)

            with closing(open_source(key)) as source:
                found = read_index(source, int(self.source.parts.size[part_row]), key)
                check_against_index(self.source, listed, found, key)
                runs = runs_of(chunks.offset[listed], chunks.stored[listed], places)
                self._reader.run(number, source, runs, work, context)
        return index

    def _take(
        self, bench: Bench, row: int, stored: memoryview, key: str, index: IndexRows, place: int, sink: Sink
    ) -> None:
        """Append one chunk: coded anew, or as it is stored, once its hash was compared."""
        chunks, data = self.source.chunks, stored
        if self._decoded[row]:
            raw = decode(bench, chunks, row, stored, key)
            raw_hash = chunks.raw_hash[row].tobytes()
            index.codec[place], data, stored_hash = encode(bench, raw, raw_hash, self.POLICY, portable=True)
            index.stored[place] = len(data)
            index.stored_hash[place] = np.frombuffer(stored_hash, np.uint8)
        else:
            check_stored(chunks, row, stored, key)
        index.offset[place] = sink.append(data)
        self._meter.add(checked_bytes=len(stored), coded_bytes=len(data))

    def converted(self) -> Manifest:
        """The new snapshot's manifest: entries, segments and the order of chunks are those of the source."""
        if not self._done.all():
            raise UsageError(f"{int((~self._done).sum())} chunks were not converted yet")
        numbers = np.unique(self._chunks.part).tolist()
        row_of = np.zeros(limits.PART_NUMBER_MAX + 1, np.uint32)
        row_of[numbers] = np.arange(len(numbers))
        parts = parts_of(self.source.machine, self.snapshot_id, [(n, self._sizes[n]) for n in numbers])
        chunks = replace(self._chunks, part=row_of[self._chunks.part])
        return replace(self.source, snapshot_id=self.snapshot_id, parts=parts, chunks=chunks)


def source_keys(source: Manifest) -> Array:
    """What the chunks of the new parts are made from, as 32-byte digests of where each lies and of its two hashes:
    by them a part that was finished is known again. uint8 (chunks, 32)."""
    chunks, parts = source.chunks, [source.parts.key(row).encode() for row in range(len(source.parts))]
    digests = [
        blake3.blake3(b"%s\0%d\0" % (parts[part], offset) + stored_hash.tobytes() + raw_hash.tobytes()).digest()
        for part, offset, stored_hash, raw_hash in zip(
            chunks.part.tolist(), chunks.offset.tolist(), chunks.stored_hash, chunks.raw_hash, strict=True
        )
    ]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
