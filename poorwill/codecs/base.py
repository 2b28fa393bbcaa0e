"""What a codec promises.

A codec turns one chunk's raw bytes into stored bytes and back. Its numeric `id` stands in every chunk
record and is never given to another format (see registry.py); two codecs may share an id only if each
decodes what the other wrote.
"""

from __future__ import annotations

from typing import Protocol


class Codec(Protocol):
    """One format. An instance owns scratch memory and belongs to one thread at a time."""

    id: int
    name: str

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        """Write the coded form of `raw` into `out`; return its length in bytes.

        None when it does not fit into `out`, or when this codec has nothing to gain on these bytes:
        the caller stores the chunk raw. Deterministic for one library version. Both views are
        C-contiguous, 1-d, format 'B'. Does not keep a reference to either view.
        """

    def decode(self, stored: memoryview, out: memoryview) -> None:
        """Fill exactly `len(out)` bytes from `stored`.

        The caller has checked the stored bytes' hash, but nothing here trusts them: whatever they
        hold, this either fills `out` completely or raises errors.Corrupt, and never allocates more
        than a small multiple of `len(out)`.
        """
