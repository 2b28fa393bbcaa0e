"""What has become of each planned chunk: written to a part, found to be known, or not yet done."""

from __future__ import annotations

import threading

import numpy as np

from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Chunks

MISSING, OWN = -1, -2


class ChunkRecords:
    """One row per planned chunk, filled by codec threads in any order. Thread-safe.

    `place` is OWN for a chunk that was written, MISSING before; otherwise the row of an equal chunk: a row
    of `base` below len(base), a planned chunk's number + len(base) above. `part` in `chunks` is the part's number.
    """

    def __init__(self, count: int, base: Chunks) -> None:
        self.base_rows = len(base)
        self.place = np.full(count, MISSING, np.int64)
        self.chunks = Chunks.zeros(count)
        self._lock = threading.Lock()
        self._known: dict[bytes, int] = {h.tobytes(): row for row, h in enumerate(base.raw_hash)}

    def adopt(self, chunk: int, base_row: int, raw_hash: Array) -> None:
        """The chunk's bytes are those of `base_row`, as its source tells."""
        self.place[chunk] = base_row
        self.chunks.raw_hash[chunk] = raw_hash

    def claim(self, chunk: int, raw_hash: bytes, raw: int) -> bool:
        """Whether this chunk must be written: False, and done, if one with equal bytes exists or is being written."""
        with self._lock:
            known = self._known.setdefault(raw_hash, self.base_rows + chunk)
            self.chunks.raw_hash[chunk] = np.frombuffer(raw_hash, np.uint8)
            self.chunks.raw[chunk] = raw
            if known == self.base_rows + chunk:
                return True
            self.place[chunk] = known
            return False

    def wrote(self, chunk: int, part: int, offset: int, stored: int, codec: int, stored_hash: bytes) -> None:
        chunks = self.chunks
        with self._lock:
            chunks.part[chunk], chunks.offset[chunk], chunks.stored[chunk] = part, offset, stored
            chunks.codec[chunk] = codec
            chunks.stored_hash[chunk] = np.frombuffer(stored_hash, np.uint8)
            self.place[chunk] = OWN

    def forget(self, chunks: Array) -> None:
        """Undo: the part these chunks were written to starts over."""
        with self._lock:
            for chunk in chunks.tolist():
                digest = self.chunks.raw_hash[chunk].tobytes()
                if self._known.get(digest) == self.base_rows + chunk:
                    del self._known[digest]
            self.place[chunks] = MISSING

    def resolved(self) -> Array:
        """For each planned chunk the row it ended in (as `place`, OWN spelled as its own row), or MISSING, also if it
        pointed to another which was written again with other bytes."""
        rows = np.arange(len(self.place)) + self.base_rows
        out = np.where(self.place == OWN, rows, self.place)
        pointing = np.flatnonzero(self.place >= self.base_rows)
        aim = self.place[pointing] - self.base_rows
        raw_hash = self.chunks.raw_hash
        broken = (self.place[aim] != OWN) | (raw_hash[aim] != raw_hash[pointing]).any(axis=1)
        out[pointing[broken]] = MISSING
        return out
