"""CuPy, nvCOMP and the driver below them: whether they are here, and which devices they can code on."""

from __future__ import annotations

import ctypes
import importlib
import os
from dataclasses import dataclass
from typing import Any

from poorwill.codecs import registry
from poorwill.errors import Unsupported

NVCOMP_MAJOR = 6
CAPABILITY_MIN = (7, 0)
"""Volta, the oldest that the wheels for CUDA 12 carry code for."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """CuPy and nvCOMP, as modules."""

    cupy: Any
    nvcomp: Any


def check_driver() -> None:
    """Unsupported without NVIDIA's driver. Takes no time, where loading the libraries takes a third of a second."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unsupported(f"NVIDIA's driver is not installed: {error}") from None


def load() -> Libraries:
    """CuPy and nvCOMP. Unsupported if one is missing, cannot be loaded, or is of another major version."""
    # CuPy makes the folder of its kernels when it is imported: not in a home that may be read-only.
    state = os.environ.get("POORWILL_STATE_DIR") or os.path.expanduser("~/.poorwill")
    os.environ.setdefault("CUPY_CACHE_DIR", os.path.join(state, "cupy"))
    try:
        libraries = Libraries(importlib.import_module("cupy"), importlib.import_module("nvidia.nvcomp"))
    except Exception as error:  # a library that is installed and does not load may raise anything
        raise Unsupported(f"the GPU's libraries cannot be used: {type(error).__name__}: {error}") from None
    found = str(libraries.nvcomp.__version__)
    if found.partition(".")[0] != str(NVCOMP_MAJOR):
        raise Unsupported(
            f"nvCOMP {found} is installed, and codec '{registry.name(registry.NVCOMP_ANS)}' needs {NVCOMP_MAJOR}"
        )
    return libraries


def usable_devices(libraries: Libraries) -> list[int]:
    """The numbers of the GPUs that can code. Unsupported, with the reason, without any."""
    runtime = libraries.cupy.cuda.runtime
    try:
        found = range(runtime.getDeviceCount())
        able = [n for n in found if capability(libraries, n) >= CAPABILITY_MIN]
    except runtime.CUDARuntimeError as error:
        raise Unsupported(f"CUDA finds no GPU: {error}") from None
    if not able:
        raise Unsupported(f"CUDA finds {len(found)} GPUs, and none of compute capability 7.0 or newer")
    return able


def capability(libraries: Libraries, device: int) -> tuple[int, int]:
    facts = libraries.cupy.cuda.runtime.getDeviceProperties(device)
    return int(facts["major"]), int(facts["minor"])


def pin(libraries: Libraries, start: int, size: int) -> None:
    """Pin host memory for all contexts of this process. Raises what CUDA does."""
    libraries.cupy.cuda.runtime.hostRegister(start, size, 1)  # cudaHostRegisterPortable
