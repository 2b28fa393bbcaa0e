"""The GPUs that these tests are for. Where there are none, every module is skipped, with one and the same reason."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from poorwill.codecs.gpu.gpu_pool import Gpus, open_gpus
from poorwill.codecs.gpu.libraries import Libraries, load, usable_devices
from poorwill.errors import Unsupported

DEVICES = ("nvidia[0-9]*", "dxg")
"""Below /dev: without any of them there is no need to load libraries, which takes seconds."""


@functools.lru_cache(maxsize=1)
def why_none() -> str:
    """Why nothing can be tested; empty if it can."""
    if not any(found for name in DEVICES for found in Path("/dev").glob(name)):
        return "there is no GPU: nothing in /dev is named nvidia0"
    try:
        usable_devices(load())
    except Unsupported as error:
        return error.message
    return ""


def needed() -> None:
    """Skip the module that calls this while it is imported, unless there is a GPU."""
    if reason := why_none():
        pytest.skip(f"NO GPU WAS TESTED: {reason}", allow_module_level=True)


@functools.lru_cache(maxsize=1)
def libraries() -> Libraries:
    return load()


@functools.lru_cache(maxsize=1)
def gpus() -> Gpus:
    """All of this machine, opened once and kept until the process ends."""
    return open_gpus(libraries())
