"""Id 0: the bytes as they are."""

from __future__ import annotations

from poorwill.errors import Corrupt


class Raw:
    """The identity."""

    id = 0
    name = "raw"

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        if len(raw) > len(out):
            return None
        out[: len(raw)] = raw
        return len(raw)

    def decode(self, stored: memoryview, out: memoryview) -> None:
        if len(stored) != len(out):
            raise Corrupt(f"raw: {len(stored)} stored bytes for {len(out)} raw ones")
        out[:] = stored
