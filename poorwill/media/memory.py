"""How a model is fitted into the memory of a GPU: what is decided, apart from doing it (placement.py).

A table of judgement for models of 10 to 15 billion parameters, which users of smaller ones can overrule in `Memory`:

    GPU        weights                  where
    < 15 GB    4-bit                    offloaded in groups
    < 22 GB    fp8                      offloaded in groups
    < 39 GB    fp8                      one component at a time on the GPU
    < 75 GB    as they are              one component at a time on the GPU
    above      as they are              all on the GPU

The bounds are a little below the sizes that cards are sold as (12, 16, 24, 40 and 80 GB), for they report less.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from poorwill.errors import UsageError
from poorwill.media.model import Memory

_GB = 10**9
_TABLE = (
    (15 * _GB, "group", "4bit"),
    (22 * _GB, "group", "fp8"),
    (39 * _GB, "model", "fp8"),
    (75 * _GB, "model", "none"),
)
PACKAGES = {"4bit": "bitsandbytes", "int8": "torchao"}
"""What a quantization needs beside torch and diffusers; fp8 only stores weights in torch's own type."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with a pipeline: nothing in it is `auto`. `notes` are sentences for the log."""

    offload: str
    quantization: str
    vae_tiling: bool
    attention: str
    compile: bool
    notes: tuple[str, ...] = ()


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def plan(memory: Memory, vram_bytes: int | None, installed: Callable[[str], bool] = _installed) -> Plan:
    """What `memory` means on a GPU with `vram_bytes` in all; None: on the CPU, where all weights are in reach anyway.

    UsageError for a quantization whose package is not `installed`, when it was asked for by name: `auto` then takes
    one that needs none, with a note.
    """
    if vram_bytes is None:
        return _on_cpu(memory)
    offload, quantization = next(
        ((offload, quantization) for bound, offload, quantization in _TABLE if vram_bytes < bound), ("none", "none")
    )
    if memory.offload != "auto":
        offload = memory.offload
    by_name = memory.quantization != "auto"
    if by_name:
        quantization = memory.quantization
    elif offload == "sequential":
        quantization = "none"
    notes: tuple[str, ...] = ()
    package = PACKAGES.get(quantization)
    if package is not None and not installed(package):
        if by_name:
            raise UsageError(
                f"quantization {quantization!r} needs the package {package}, which is not installed: 'pip install "
                f"{package}', or ask for 'fp8', which needs none",
                package=package,
            )
        notes = (
            f"{package} is not installed: weights are kept in fp8 instead of {quantization}, which needs more memory; "
            f"'pip install {package}' changes that",
        )
        quantization = "fp8"
    return Plan(offload, quantization, memory.vae_tiling, memory.attention, memory.compile, notes)


def _on_cpu(memory: Memory) -> Plan:
    asked = {"offload": memory.offload, "quantization": memory.quantization}
    ignored = [f"{field} {value!r}" for field, value in asked.items() if value not in ("auto", "none")]
    notes = tuple(f"there is no GPU: {what} has no effect" for what in ignored)
    return Plan("none", "none", memory.vae_tiling, memory.attention, memory.compile, notes)
