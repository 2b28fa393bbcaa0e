"""How bytes lie in memory: elements split into byte planes and joined again, on any array library (CuPy on a GPU, NumPy
in the tests); and pieces of a buffer, one behind the other."""

from __future__ import annotations

from typing import Any

Array = Any
ALIGNMENT = 256
"""What CUDA's own allocations have; nvCOMP asks for 16."""


def words(xp: Any, data: Array, width: int) -> Array:
    """Bytes seen as unsigned elements of `width` bytes."""
    return data.view({1: xp.uint8, 2: xp.uint16, 4: xp.uint32}[width])


def split(xp: Any, data: Array, width: int, rotated: bool, out: list[Array]) -> None:
    """Byte k of every element of `data`, which are whole ones of `width` bytes, to out[k], an array of bytes; each
    element is rotated left by one bit first where `rotated`."""
    elements = words(xp, data, width)
    if rotated:
        elements = (elements << 1) | (elements >> (8 * width - 1))
    planes = elements.view(xp.uint8).reshape(-1, width)
    for k, plane in enumerate(out):
        plane[...] = planes[:, k]


def join(xp: Any, planes: list[Array], rotated: bool, out: Array) -> None:
    """The inverse: `planes` to `out`, both bytes."""
    width = len(planes)
    target = out.reshape(-1, width)
    for k, plane in enumerate(planes):
        target[:, k] = plane
    if rotated:
        elements = words(xp, out, width)
        elements[...] = (elements >> 1) | (elements << (8 * width - 1))


def stacked(sizes: list[int], alignment: int = ALIGNMENT, at: int = 0) -> tuple[list[int], int]:
    """Where pieces of these sizes begin, one behind the other from `at` on and aligned, and where the last one ends."""
    offsets = []
    for size in sizes:
        offsets.append(at)
        at = aligned(at + size, alignment)
    return offsets, at


def aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
