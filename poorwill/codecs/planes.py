"""Id 2: byte planes, each entropy-coded as standard zstd frames or stored. docs/codecs.md specifies the form.

In trained weights the exponent repeats and the mantissa is noise. Rotating every element left by one bit puts
the whole exponent of bf16, fp32 and fp64 into the highest byte and the sign behind the mantissa; then byte k of all
elements is plane k, and only planes with something to gain are coded. Everything happens block by block, so that a
block is touched while it is in the cache.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from poorwill.codecs.zstd_door import Door, open_door
from poorwill.errors import Corrupt

VERSION = 1
ROTATED = 1
_HEAD = struct.Struct(
    "<BBBBII"
)  # version, element bytes, flags, planes that may be coded (bits), block bytes, raw bytes
_CODED = 1 << 31
PLANE_BLOCK_BYTES = 128 << 10
_BLOCK_BYTES_MAX = 8 << 20
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a chunk is seen: elements of `width` bytes, rotated or not, and which planes are worth coding (bit k)."""

    width: int
    rotated: bool
    coded: int


class Planes:
    """Encodes by `layout`, which the sampler sets; decodes any."""

    id = 2
    name = "planes"

    def __init__(self, door: Door | None = None) -> None:
        self.layout = Layout(2, True, 0b10)
        self._door = door or open_door(huffman_only=True)
        self._planes = self._words = self._other = np.empty(0, np.uint8)
        self._reserve(4 * PLANE_BLOCK_BYTES)

    def _reserve(self, block_bytes: int) -> None:
        if len(self._planes) < block_bytes:
            self._planes = np.empty(block_bytes, np.uint8)
            self._words = np.empty(block_bytes, np.uint8)
            self._other = np.empty(block_bytes, np.uint8)

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        layout, width = self.layout, self.layout.width
        body = len(raw) // width * width
        block = PLANE_BLOCK_BYTES * width
        sizes = np.zeros(-(-body // block) * width, "<u4")
        at = _HEAD.size + sizes.nbytes
        tail = len(raw) - body
        if at + tail > len(out) or not body:
            return None
        source = np.frombuffer(raw, np.uint8)
        for n, start in enumerate(range(0, body, block)):
            count = (min(block, body - start)) // width
            planes = self._split(source[start : start + count * width], count)
            for k in range(width):
                plane = planes[k * count : (k + 1) * count].data
                coded = self._door.compress(plane, out[at : at + count]) if layout.coded >> k & 1 else None
                if coded is not None and coded < count:
                    sizes[n * width + k] = coded | _CODED
                    at += coded
                elif at + count + tail <= len(out):
                    out[at : at + count] = plane
                    sizes[n * width + k] = count
                    at += count
                else:
                    return None
        if at + tail > len(out):
            return None
        out[at : at + tail] = raw[body:]
        _HEAD.pack_into(out, 0, VERSION, width, ROTATED * layout.rotated, layout.coded, block, len(raw))
        out[_HEAD.size : _HEAD.size + sizes.nbytes] = sizes.tobytes()
        at += tail
        return at if at < len(raw) else None

    def _split(self, block: Array, count: int) -> Array:
        # Plain copies between widths, shifts and products are what numpy has SIMD loops for; strided byte views and
        # casts inside a ufunc are several times slower.
        width = self.layout.width
        if width == 1:
            return block
        dtype = _DTYPES[width]
        source, planes = block.view(dtype), self._planes
        words, other = self._words[: count * width].view(dtype), self._other[: count * width].view(dtype)
        if self.layout.rotated:
            np.multiply(source, dtype.type(2), out=words)
            np.right_shift(source, dtype.type(8 * width - 1), out=other)
            np.bitwise_or(words, other, out=words)
            source = words
        np.copyto(planes[:count], source, casting="unsafe")
        for k in range(1, width):
            np.right_shift(source, dtype.type(8 * k), out=other)
            np.copyto(planes[k * count : (k + 1) * count], other, casting="unsafe")
        return planes

    def decode(self, stored: memoryview, out: memoryview) -> None:
        width, rotated, block, sizes = _checked_header(stored, len(out))
        self._reserve(block)
        body = len(out) // width * width
        at = _HEAD.size + 4 * len(sizes)
        target = np.frombuffer(out, np.uint8)
        for n, start in enumerate(range(0, body, block)):
            count = min(block, body - start) // width
            for k, size in enumerate(sizes[n * width : (n + 1) * width]):
                length = size & ~_CODED
                data = stored[at : at + length]
                if len(data) != length:
                    raise Corrupt(f"planes: ends after {len(stored)} bytes, inside block {n}")
                at += length
                plane = self._planes[k * count : (k + 1) * count] if width > 1 else target[start : start + count]
                if size & _CODED:
                    self._door.decompress(data, plane.data)
                elif length == count:
                    plane[:] = np.frombuffer(data, np.uint8)
                else:
                    raise Corrupt(f"planes: a stored plane of {length} bytes, expected {count}")
            if width > 1:
                self._join(target[start : start + count * width].view(_DTYPES[width]), width, rotated, count)
        tail = len(out) - body
        if len(stored) != at + tail:
            raise Corrupt(f"planes: {len(stored)} bytes, expected {at + tail}")
        out[body:] = stored[at:]

    def _join(self, target: Array, width: int, rotated: bool, count: int) -> None:
        dtype = _DTYPES[width]
        planes = self._planes
        words, other = self._words[: count * width].view(dtype), self._other[: count * width].view(dtype)
        np.copyto(words, planes[(width - 1) * count : width * count])
        np.multiply(words, dtype.type(1 << 8 * (width - 1)), out=words)
        for k in range(width - 1):
            np.copyto(other, planes[k * count : (k + 1) * count])
            if k:
                np.multiply(other, dtype.type(1 << 8 * k), out=other)
            np.bitwise_or(words, other, out=words)
        if not rotated:
            target[:] = words
            return
        np.right_shift(words, dtype.type(1), out=other)
        np.multiply(words, dtype.type(1 << 8 * width - 1), out=words)
        np.bitwise_or(words, other, out=target)


def _checked_header(stored: memoryview, raw_bytes: int) -> tuple[int, bool, int, list[int]]:
    if len(stored) < _HEAD.size:
        raise Corrupt(f"planes: {len(stored)} bytes, too short for a header")
    version, width, flags, _, block, declared = _HEAD.unpack_from(stored)
    if version != VERSION or width not in _DTYPES or flags & ~ROTATED:
        raise Corrupt(f"planes: header of version {version}, width {width}, flags {flags} is not known")
    if declared != raw_bytes or not 0 < block <= _BLOCK_BYTES_MAX or block % width:
        raise Corrupt(f"planes: {declared} raw bytes in blocks of {block}, expected {raw_bytes}")
    count = -(-(raw_bytes // width * width) // block) * width
    if _HEAD.size + 4 * count > len(stored):
        raise Corrupt("planes: ends inside its table of sizes")
    sizes: list[int] = np.frombuffer(stored, "<u4", count, _HEAD.size).tolist()
    return width, bool(flags & ROTATED), block, sizes
