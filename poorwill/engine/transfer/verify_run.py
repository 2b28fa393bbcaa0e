"""Reading a snapshot's parts back, to prove that it can be woken."""

from __future__ import annotations

import numpy as np

from poorwill.engine.meter import Meter
from poorwill.engine.pool import Bench
from poorwill.engine.protocol.answers import PartVerified
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.decoding import check_stored, decode
from poorwill.engine.transfer.fetch import Reader, Source
from poorwill.engine.transfer.part_reading import check_against_index, read_index, runs_of, stored_chunks
from poorwill.snapshot.tables import Manifest


class VerifyRun:
    """One verification of a manifest's parts; `part` may be called for many at once."""

    def __init__(self, manifest: Manifest, full: bool, reader: Reader, meter: Meter) -> None:
        """full: decode every chunk too, instead of hashing the stored bytes alone."""
        self.manifest, self._full = manifest, full
        self._reader, self._meter = reader, meter

    def part(self, part_row: int, source: Source, context: Context) -> PartVerified:
        """Read every chunk of the part, also those this snapshot does not use. Corrupt at the first that differs."""
        key, size = self.manifest.parts.key(part_row), int(self.manifest.parts.size[part_row])
        index = read_index(source, size, key)
        check_against_index(self.manifest, np.flatnonzero(self.manifest.chunks.part == part_row), index, key)
        listed = index.chunks(part_row)

        def work(bench: Bench, data: memoryview, rows: list[int]) -> None:
            for row, stored in stored_chunks(data, rows, listed.stored):
                if self._full:
                    decode(bench, listed, row, stored, key)
                else:
                    check_stored(listed, row, stored, key)
                self._meter.add(checked_bytes=len(stored))

        runs = runs_of(index.offset, index.stored, np.arange(len(index)))
        self._reader.run(part_row, source, runs, work, context)
        return PartVerified(part_row, size, len(index))
