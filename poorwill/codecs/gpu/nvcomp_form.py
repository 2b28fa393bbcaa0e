"""The stored form of id 4, nvcomp-ans/6: a small header, then streams that nvCOMP wrote. docs/codecs.md specifies it.

A chunk is either one stream of nvCOMP's own element type, or as many planes as its elements have bytes, each coded as
bytes or stored. Streams begin at multiples of 16: nvCOMP asks that of device memory, and a chunk is copied whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from poorwill.codecs.gpu.layout import aligned, stacked
from poorwill.codecs.planes import Layout
from poorwill.errors import Corrupt

VERSION = 1
ROTATED, SPLIT = 1, 2
ALIGNMENT = 16
# version, element bytes, flags, 0, raw bytes; then a size for each stream
_HEAD = struct.Struct("<BBBBI")
_CODED = 1 << 31
_TYPES = {1: "|u1", 2: "<f2", 4: "<f4"}


@dataclass(frozen=True, slots=True)
class Form:
    """How a chunk is coded. split: into byte planes, `coded` says which gain (bit k); else whole, as `type`."""

    width: int
    rotated: bool = False
    split: bool = False
    coded: int = 1

    @property
    def type(self) -> str:
        """nvCOMP's name for the elements of a coded stream."""
        return "|u1" if self.split else _TYPES[self.width]

    @property
    def streams(self) -> int:
        return self.width if self.split else 1

    def body(self, raw_bytes: int) -> int:
        """The raw bytes in whole elements; the rest is the tail, which is stored."""
        return raw_bytes // self.width * self.width

    def is_coded(self, stream: int) -> bool:
        return bool(self.coded >> stream & 1)


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a stream lies in the stored bytes, and whether it is coded."""

    offset: int
    size: int
    coded: bool


def form_of(layout: Layout) -> Form:
    """What is written for a layout. nvCOMP finds the exponent of a float by itself, so that nothing has to be split
    where that alone repeats; integers, and floats that were narrower before, have other planes that repeat too."""
    width, top = layout.width, 1 << (layout.width - 1)
    if width == 1 or (layout.coded == top and (width == 2 or layout.rotated)):
        return Form(width)
    return split_of(layout)


def split_of(layout: Layout) -> Form:
    """The same in planes, which any layout has."""
    return Form(layout.width, layout.rotated, split=layout.width > 1, coded=layout.coded if layout.width > 1 else 1)


def placed(form: Form, raw_bytes: int, sizes: list[int]) -> tuple[list[int], int]:
    """Where streams of these sizes begin, and the stored bytes of the whole chunk."""
    offsets, end = stacked(sizes, ALIGNMENT, aligned(_HEAD.size + 4 * form.streams, ALIGNMENT))
    return offsets, end + raw_bytes - form.body(raw_bytes)


def write(form: Form, raw: memoryview, sizes: list[int], out: memoryview) -> None:
    """Everything in `out` but the streams themselves: header, padding, tail."""
    offsets, end = placed(form, len(raw), sizes)
    flags = ROTATED * form.rotated | SPLIT * form.split
    _HEAD.pack_into(out, 0, VERSION, form.width, flags, 0, len(raw))
    marked = (size | _CODED * form.is_coded(k) for k, size in enumerate(sizes))
    struct.pack_into(f"<{len(sizes)}I", out, _HEAD.size, *marked)
    padded = _HEAD.size + 4 * len(sizes)
    for offset, size in zip(offsets, sizes, strict=True):
        out[padded:offset] = bytes(offset - padded)
        padded = offset + size
    tail = end - (len(raw) - form.body(len(raw)))
    out[padded:tail] = bytes(tail - padded)
    out[tail:end] = raw[form.body(len(raw)) :]


def read(stored: memoryview, raw_bytes: int) -> tuple[Form, list[Stream], int]:
    """The form, its streams, and where the tail begins. Corrupt unless everything lies where it has to."""
    if len(stored) < _HEAD.size:
        raise Corrupt(f"nvcomp-ans/6: {len(stored)} bytes, too short for a header")
    version, width, flags, reserved, declared = _HEAD.unpack_from(stored)
    if version != VERSION or width not in _TYPES or flags & ~(ROTATED | SPLIT) or reserved:
        raise Corrupt(f"nvcomp-ans/6: header of version {version}, width {width}, flags {flags} is not known")
    split, rotated = bool(flags & SPLIT), bool(flags & ROTATED)
    if declared != raw_bytes or (rotated and not split) or (split and width == 1):
        raise Corrupt(f"nvcomp-ans/6: {declared} raw bytes, expected {raw_bytes}; width {width}, flags {flags}")
    count = width if split else 1
    if len(stored) < _HEAD.size + 4 * count:
        raise Corrupt("nvcomp-ans/6: ends inside its table of sizes")
    marked = struct.unpack_from(f"<{count}I", stored, _HEAD.size)
    form = Form(width, rotated, split, sum(bool(m & _CODED) << k for k, m in enumerate(marked)))
    sizes = [m & ~_CODED for m in marked]
    offsets, end = placed(form, raw_bytes, sizes)
    plane = form.body(raw_bytes) // count
    wrong = [k for k, m in enumerate(marked) if (not m & _CODED and (sizes[k] != plane or not split)) or not sizes[k]]
    if wrong or end != len(stored) or not plane or not form.coded:
        raise Corrupt(f"nvcomp-ans/6: streams of {sizes} bytes do not fill {len(stored)}, of {raw_bytes} raw")
    streams = [Stream(o, s, form.is_coded(k)) for k, (o, s) in enumerate(zip(offsets, sizes, strict=True))]
    return form, streams, end - (raw_bytes - form.body(raw_bytes))
