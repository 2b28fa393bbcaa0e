"""Id 1: one standard zstd frame. For text, code and everything else with repetitions."""

from __future__ import annotations

from poorwill.codecs.zstd_ffi import Coder, open_coder


class Zstd:
    """One frame, level 1: more is slower than the links these bytes travel on."""

    id = 1
    name = "zstd"

    def __init__(self, coder: Coder | None = None) -> None:
        self._coder = coder or open_coder(huffman_only=False)

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        size = self._coder.compress(raw, out)
        return size if size is not None and size < len(raw) else None

    def decode(self, stored: memoryview, out: memoryview) -> None:
        self._coder.decompress(stored, out)
