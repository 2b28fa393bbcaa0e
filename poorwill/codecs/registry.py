"""Codec ids. An id stands in every chunk ever written: it is never given to another format.

| id | name         | decodes on                         |
| 0  | raw          | anything                           |
| 1  | zstd         | anything                           |
| 2  | planes       | anything                           |
| 3  | openzl       | a CPU with the package openzl      |
| 4  | nvcomp-ans/6 | a GPU with nvCOMP 6                |
"""

from __future__ import annotations

from poorwill.codecs.base import Codec
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Planes
from poorwill.codecs.raw import Raw
from poorwill.codecs.zstd import Zstd
from poorwill.errors import Unsupported

NVCOMP_ANS = 4
_ON_CPU: dict[int, type[Raw | Zstd | Planes | OpenZL]] = {kind.id: kind for kind in (Raw, Zstd, Planes, OpenZL)}
_NAMES = {**{number: kind.name for number, kind in _ON_CPU.items()}, NVCOMP_ANS: "nvcomp-ans/6"}
_NEEDS = {NVCOMP_ANS: "nvcomp>=6,<7"}
ID_BY_NAME = {name: number for number, name in _NAMES.items()}


def make(number: int) -> Codec:
    """A codec of the CPU, for the calling thread alone. Unsupported for any other; toolset.py makes those of a GPU."""
    if number in _ON_CPU:
        return _ON_CPU[number]()
    if number in _NEEDS:
        raise Unsupported(f"codec '{_NAMES[number]}' needs {_NEEDS[number]} and a GPU, which are not available here")
    raise Unsupported(f"codec id {number} is not known: use a newer poorwill")


def name(number: int) -> str:
    """The codec's name, or "unknown-<id>"."""
    return _NAMES.get(number, f"unknown-{number}")


def needs(number: int) -> str | None:
    """What a machine must have beyond a CPU to decode it."""
    return _NEEDS.get(number)
