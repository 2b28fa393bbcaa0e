"""How much of a GPU's memory coding takes, and so how large a batch is."""

from __future__ import annotations

from typing import Any

from poorwill.errors import OutOfMemory

BATCH_BYTES_MAX, BATCH_BYTES_MIN = 128 << 20, 16 << 20
BUFFERS = 5
"""A lane's memory, in sizes of a batch: raw, planes, coded, check, and what nvCOMP and CuPy need meanwhile."""
MEMORY_SHARE = 0.25
"""Of the memory that is free: the workspace's own programs may be using the GPU."""


def batch_bytes(cupy: Any, lanes: int) -> int:
    """Of each of so many lanes, on the current device. OutOfMemory if it is too little."""
    free, _ = cupy.cuda.runtime.memGetInfo()
    size = int(free * MEMORY_SHARE) // (lanes * BUFFERS)
    if size < BATCH_BYTES_MIN:
        raise OutOfMemory(f"{free >> 20} MiB of its memory are free, and that is too little")
    return min(size, BATCH_BYTES_MAX)
