"""Splitting elements into byte planes and joining them, on any array library: CuPy on a GPU, NumPy in the tests."""

from __future__ import annotations

from typing import Any

Array = Any


def words(xp: Any, data: Array, width: int) -> Array:
    """Bytes seen as unsigned elements of `width` bytes."""
    return data.view({1: xp.uint8, 2: xp.uint16, 4: xp.uint32}[width])


def split(xp: Any, data: Array, width: int, rotated: bool, out: list[Array]) -> None:
    """Byte k of every element to out[k]; each element is rotated left by one bit first where `rotated`.

    data: bytes, a whole number of elements. out: `width` byte arrays of len(data) / width.
    """
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
