"""Chunks of every kind of data that a workspace of models holds, from fixed seeds.

Weights are Gaussian with sigma 0.02, as trained layers nearly are; quantised kinds are scaled as their formats do it.
"""

from __future__ import annotations

import io
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SIGMA = 0.02
ROW = 4096
TEXT_BYTES_MAX = 2 << 20


def _weights(count: int, seed: int) -> Array:
    return (np.random.default_rng(seed).standard_normal(count) * SIGMA).astype("<f4")


def _bf16(weights: Array) -> Array:
    bits = weights.view("<u4")
    rounded: Array = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return rounded.astype("<u2")


def _fp32_of_bf16(size: int, seed: int) -> Array:
    bits: Array = _bf16(_weights(size // 4, seed)).astype("<u4") << 16
    return bits


def _rows(weights: Array, row: int) -> Array:
    return np.pad(weights, (0, -len(weights) % row)).reshape(-1, row)


def _int8(size: int, seed: int) -> Array:
    rows = _rows(_weights(size, seed), ROW)
    values: Array = np.rint(rows / np.abs(rows).max(axis=1, keepdims=True) * 127)
    return values.astype(np.int8)


def _e5m2(size: int, seed: int) -> Array:
    bits = _weights(size, seed).astype("<f2").view("<u2")
    rounded: Array = (bits + 0x7F + (bits >> 8 & 1)) >> 8
    return rounded.astype(np.uint8)


def _e4m3(size: int, seed: int) -> Array:
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    values = np.where(exponent, 2.0 ** (exponent - 7) * (1 + mantissa / 8), mantissa / 8 * 2.0**-6)
    weights = _weights(size, seed)
    scaled = np.abs(weights) / np.abs(weights).max() * 448
    nearest = np.searchsorted((values[1:] + values[:-1]) / 2, scaled)
    signed: Array = nearest | (weights < 0) << 7
    return signed.astype(np.uint8)


def _q4_0(size: int, seed: int) -> Array:
    """GGUF's Q4_0: blocks of 32 weights, each an fp16 scale and 16 bytes of two 4-bit values."""
    blocks = _rows(_weights(-(-size // 18) * 32, seed), 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], 1)
    scale = largest / -8
    values = np.clip(blocks / scale + 8.5, 0, 15).astype(np.uint8)
    packed = values[:, :16] | values[:, 16:] << 4
    return np.hstack([scale.astype("<f2").view(np.uint8), packed])


def _text(size: int, seed: int) -> Array:
    """Python's standard library, one file after the other."""
    joined = io.BytesIO()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        joined.write(path.read_bytes())
        if joined.tell() > TEXT_BYTES_MAX:
            break
    text = np.roll(np.frombuffer(joined.getvalue(), np.uint8), -seed * 1009)
    return np.resize(text, size)


def _indices(size: int, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).integers(0, 1 << 20, size // 8)).astype("<i8")


KINDS: dict[str, Callable[[int, int], Array]] = {
    "bf16": lambda size, seed: _bf16(_weights(size // 2, seed)),
    "fp16": lambda size, seed: _weights(size // 2, seed).astype("<f2"),
    "fp32": lambda size, seed: _weights(size // 4, seed),
    "fp32 of bf16": _fp32_of_bf16,
    "fp32 of fp16": lambda size, seed: _weights(size // 4, seed).astype("<f2").astype("<f4"),
    "fp8 e5m2": _e5m2,
    "fp8 e4m3": _e4m3,
    "int8": _int8,
    "q4_0": _q4_0,
    "int64 indices": _indices,
    "text": _text,
    "zeros": lambda size, seed: np.zeros(size, np.uint8),
    "random": lambda size, seed: np.random.default_rng(seed).integers(0, 256, size, np.uint8),
}


def chunk(kind: str, size: int, seed: int = 0) -> memoryview:
    """`size` bytes (a multiple of 8) of one of KINDS; the same seed gives the same bytes."""
    return memoryview(KINDS[kind](size, seed).tobytes())[:size]
