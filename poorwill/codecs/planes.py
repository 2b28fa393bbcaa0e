"""Id 2: byte planes, each entropy-coded as standard zstd frames or stored. docs/codecs.md specifies the form.

In trained weights the exponent repeats and the mantissa is noise. Rotating every element left by one bit puts
the whole exponent of bf16, fp32 and fp64 into the highest byte and the sign behind the mantissa; then byte k of all
elements is plane k, and only planes with something to gain are coded. Everything happens block by block, so that a
block is touched while it is in the cache.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from poorwill.codecs.zstd_ffi import Coder, open_coder
from poorwill.errors import Corrupt

VERSION = 1
ROTATED = 1
# version, element bytes, flags, planes that may be coded (bits), block bytes, raw bytes
_HEAD = struct.Struct("<BBBBII")
_CODED = 1 << 31
PLANE_BLOCK_BYTES = 128 << 10
_BLOCK_BYTES_MIN, _BLOCK_BYTES_MAX = 4 << 10, 8 << 20
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a chunk is seen: elements of `width` bytes, rotated or not, and which planes are worth coding (bit k)."""

    width: int
    rotated: bool
    coded: int


class Planes:
    """Encodes by `layout`, which the chooser sets; decodes any."""

    id = 2
    name = "planes"

    def __init__(self, coder: Coder | None = None) -> None:
        self.layout = Layout(2, True, 0b10)
        self._coder = coder or open_coder(huffman_only=True)
        self._planes = self._words = self._other = np.empty(0, np.uint8)
        self._reserve(4 * PLANE_BLOCK_BYTES)

    def _reserve(self, block_bytes: int) -> None:
        if len(self._planes) < block_bytes:
            self._planes, self._words, self._other = (np.empty(block_bytes, np.uint8) for _ in range(3))

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        layout, width = self.layout, self.layout.width
        body = len(raw) // width * width
        block = PLANE_BLOCK_BYTES * width
        sizes = np.zeros(-(-body // block) * width, "<u4")
        at = _HEAD.size + sizes.nbytes
        end = len(out) - (len(raw) - body)
        if at > end or not body:
            return None
        source = np.frombuffer(raw, np.uint8, body).view(_DTYPES[width])
        target = np.frombuffer(out, np.uint8)
        for n, start in enumerate(range(0, len(source), PLANE_BLOCK_BYTES)):
            words = source[start : start + PLANE_BLOCK_BYTES]
            for k in range(width):
                size = self._encode_plane(words, k, target[at : min(at + len(words), end)])
                if size is None:
                    return None
                sizes[n * width + k] = size
                at += size & ~_CODED
        out[at : at + len(raw) - body] = raw[body:]
        at += len(raw) - body
        _HEAD.pack_into(out, 0, VERSION, width, ROTATED * layout.rotated, layout.coded, block, len(raw))
        out[_HEAD.size : _HEAD.size + sizes.nbytes] = sizes.tobytes()
        return at if at < len(raw) else None

    def _encode_plane(self, words: Array, k: int, out: Array) -> int | None:
        """Write plane k of `words` into `out`; its entry in the table of sizes, or None if it does not fit."""
        count = len(words)
        if self.layout.coded >> k & 1:
            plane = self._planes[:count] if self.layout.width > 1 else words
            self._split(words, k, plane)
            coded = self._coder.compress(plane.data, out.data)
            if coded is not None and coded < count:
                return coded | _CODED
            if len(out) == count:
                out[:] = plane
        elif len(out) == count:
            self._split(words, k, out)
        return count if len(out) == count else None

    def _split(self, words: Array, k: int, plane: Array) -> None:
        # What numpy has SIMD loops for: copies between widths, shifts, sums, comparisons. Strided views of bytes are
        # five times slower. Rotating first and splitting then would be three passes more.
        width, rotated = self.layout.width, self.layout.rotated
        if width == 1:
            if plane is not words:
                plane[:] = words
        elif k:
            other = self._other[: words.nbytes].view(words.dtype)
            np.right_shift(words, words.dtype.type(8 * k - rotated), out=other)
            np.copyto(plane, other, casting="unsafe")
        else:
            np.copyto(plane, words, casting="unsafe")
            if rotated:
                signs = self._other[: len(words)]
                np.less(words.view(f"<i{width}"), 0, out=signs.view(np.bool_))
                np.add(plane, plane, out=plane)
                np.bitwise_or(plane, signs, out=plane)

    def decode(self, stored: memoryview, out: memoryview) -> None:
        width, rotated, block, sizes = _checked_header(stored, len(out))
        body = len(out) // width * width
        self._reserve(min(block, body))
        at = _HEAD.size + 4 * len(sizes)
        source, target = np.frombuffer(stored, np.uint8), np.frombuffer(out, np.uint8)
        for n, start in enumerate(range(0, body, block)):
            words = target[start : min(start + block, body)]
            count = len(words) // width
            planes = []
            for k, size in enumerate(sizes[n * width : (n + 1) * width]):
                length = size & ~_CODED
                if at + length > len(stored):
                    raise Corrupt(f"planes: ends after {len(stored)} bytes, inside block {n}")
                if size & _CODED:
                    plane = words if width == 1 else self._planes[k * count : (k + 1) * count]
                    self._coder.decompress(stored[at : at + length], plane.data)
                elif length == count:
                    plane = source[at : at + length]
                else:
                    raise Corrupt(f"planes: a stored plane of {length} bytes, expected {count}")
                planes.append(plane)
                at += length
            self._join(planes, words.view(_DTYPES[width]), rotated)
        if len(stored) != at + len(out) - body:
            raise Corrupt(f"planes: {len(stored)} bytes, expected {at + len(out) - body}")
        out[body:] = stored[at:]

    def _join(self, planes: list[Array], target: Array, rotated: bool) -> None:
        if len(planes) == 1:
            if planes[0] is not target:
                target[:] = planes[0]
            return
        dtype, bits = target.dtype, 8 * len(planes)
        words, other = (scratch[: target.nbytes].view(dtype) for scratch in (self._words, self._other))
        np.copyto(words, planes[-1])
        np.multiply(words, dtype.type(1 << bits - 8), out=words)
        for k, plane in enumerate(planes[:-1]):
            np.copyto(other, plane)
            if k:
                np.multiply(other, dtype.type(1 << 8 * k), out=other)
            np.bitwise_or(words, other, out=words if rotated or k < len(planes) - 2 else target)
        if rotated:
            np.right_shift(words, dtype.type(1), out=other)
            np.multiply(words, dtype.type(1 << bits - 1), out=words)
            np.bitwise_or(words, other, out=target)


def begin(raw: memoryview, out: memoryview, layout: Layout, sizes: list[tuple[int, bool]]) -> int | None:
    """Write the header and the table for planes of these (bytes, coded), which follow in that order, then the tail.

    Returns where the first plane goes; None if the whole would not fit into `out`, or be no smaller than `raw`.
    """
    first = _HEAD.size + 4 * len(sizes)
    end = first + sum(size for size, _ in sizes) + len(raw) % layout.width
    if end > len(out) or end >= len(raw):
        return None
    block = PLANE_BLOCK_BYTES * layout.width
    _HEAD.pack_into(out, 0, VERSION, layout.width, ROTATED * layout.rotated, layout.coded, block, len(raw))
    struct.pack_into(f"<{len(sizes)}I", out, _HEAD.size, *(size | _CODED * coded for size, coded in sizes))
    return first


def frames(stored: memoryview, raw_bytes: int) -> Iterator[tuple[memoryview, int]]:
    """Every zstd frame of a chunk, and the bytes that it has to decode to. Corrupt for a wrong header."""
    width, _, block, sizes = _checked_header(stored, raw_bytes)
    at, body = _HEAD.size + 4 * len(sizes), raw_bytes // width * width
    for number, size in enumerate(sizes):
        length = size & ~_CODED
        if size & _CODED:
            yield stored[at : at + length], (min(block, body - number // width * block)) // width
        at += length


def _checked_header(stored: memoryview, raw_bytes: int) -> tuple[int, bool, int, list[int]]:
    if len(stored) < _HEAD.size:
        raise Corrupt(f"planes: {len(stored)} bytes, too short for a header")
    version, width, flags, _, block, declared = _HEAD.unpack_from(stored)
    if version != VERSION or width not in _DTYPES or flags & ~ROTATED:
        raise Corrupt(f"planes: header of version {version}, width {width}, flags {flags} is not known")
    if declared != raw_bytes or not _BLOCK_BYTES_MIN <= block <= _BLOCK_BYTES_MAX or block % width:
        raise Corrupt(f"planes: {declared} raw bytes in blocks of {block}, expected {raw_bytes}")
    count = -(-(raw_bytes // width * width) // block) * width
    if _HEAD.size + 4 * count > len(stored):
        raise Corrupt("planes: ends inside its table of sizes")
    sizes: list[int] = np.frombuffer(stored, "<u4", count, _HEAD.size).tolist()
    return width, bool(flags & ROTATED), block, sizes
