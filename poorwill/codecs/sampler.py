"""Choosing a codec for a chunk from a few KiB of it.

The order-0 entropy of the byte planes, at strides 1, 2 and 4 and with or without rotation, estimates what Huffman
or tANS coding of the planes will give; a trial of zstd on a contiguous piece shows what repetitions give. Names and
types of files play no part. A wrong choice costs bytes, never correctness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from poorwill.codecs.base import Codec
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Layout, Planes
from poorwill.codecs.zstd import Zstd
from poorwill.errors import UsageError

POLICIES = ("auto", "ans", "planes", "zstd", "raw")
RAW_ABOVE = 0.98
"""Coded sizes above this share of the raw size are not worth decoding."""
PIECES, PIECE_BYTES = 16, 2048
TRIAL_BYTES = 32 << 10
PLANE_STORED_ABOVE = 0.97
ZSTD_BETTER_BY = 0.95
WIDER_BY_LEAST = 0.002
"""Wider elements must win by more than the noise of a sample."""
_CANDIDATES = ((1, False), (2, True), (2, False), (4, True), (4, False))
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What coding the planes of `layout` is expected to give, as coded / raw."""

    ratio: float
    layout: Layout


def estimate(raw: memoryview) -> Estimate:
    """The best plane layout for a chunk, by sampling."""
    sample = _sample(raw)
    estimates = [_of_layout(sample, width, rotated) for width, rotated in _CANDIDATES]
    return min(estimates, key=lambda e: e.ratio + WIDER_BY_LEAST * e.layout.width)


def _sample(raw: memoryview) -> Array:
    data = np.frombuffer(raw, np.uint8)
    if len(data) <= PIECES * PIECE_BYTES:
        return data[: len(data) // 4 * 4]
    starts = np.linspace(0, len(data) - PIECE_BYTES, PIECES).astype(np.int64) // 4 * 4
    return np.concatenate([data[s : s + PIECE_BYTES] for s in starts.tolist()])


def _of_layout(sample: Array, width: int, rotated: bool) -> Estimate:
    words = sample[: len(sample) // width * width].view(f"<u{width}")
    if not len(words):
        return Estimate(1.0, Layout(1, False, 0))
    if rotated:
        words = (words << 1) | (words >> (8 * width - 1))
    planes = words.view(np.uint8).reshape(-1, width)
    total, coded = 0.0, 0
    for k in range(width):
        share = _entropy(planes[:, k]) / 8
        if share <= PLANE_STORED_ABOVE:
            coded |= 1 << k
            total += share
        else:
            total += 1.0
    return Estimate(total / width, Layout(width, rotated, coded))


def _entropy(values: Array) -> float:
    counts = np.bincount(values, minlength=256)
    shares = counts[counts > 0] / len(values)
    # A sample sees fewer symbols than there are: the Miller-Madow term corrects the estimate.
    return float(-(shares * np.log2(shares)).sum()) + (len(shares) - 1) / (2 * len(values) * math.log(2))


class Chooser:
    """Encodes chunks with the codec that a policy and a sample of each choose. Belongs to one thread."""

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise UsageError(f"codec '{policy}': expected one of {', '.join(POLICIES)}")
        self.policy = policy
        self._zstd = Zstd()
        self._planes = Planes()
        self._openzl = OpenZL() if policy == "ans" else None
        self._trial = zstandard.ZstdCompressor(level=1)

    def encode(self, raw: memoryview, out: memoryview) -> tuple[int, int]:
        """(codec id, coded bytes in `out`); (0, len(raw)) and nothing written when raw is the best there is."""
        for codec in self._choices(raw):
            size = codec.encode(raw, out)
            if size is not None and size <= len(raw) * RAW_ABOVE:
                return codec.id, size
        return 0, len(raw)

    def _choices(self, raw: memoryview) -> list[Codec]:
        if self.policy == "raw" or not len(raw):
            return []
        if self.policy == "zstd":
            return [self._zstd]
        best = estimate(raw)
        self._planes.layout = best.layout
        if self.policy == "planes":
            return [self._planes] if best.ratio <= RAW_ABOVE else []
        if self._repeats(raw) < best.ratio * ZSTD_BETTER_BY:
            return [self._zstd]
        if best.ratio > RAW_ABOVE:
            return []
        if self._openzl is None:
            return [self._planes]
        width, rotated = best.layout.width, best.layout.rotated
        self._openzl.layout_name = "bf16" if (width, rotated) == (2, True) else {1: "u8", 2: "u16", 4: "u32"}[width]
        return [self._openzl, self._planes]

    def _repeats(self, raw: memoryview) -> float:
        start = max(0, len(raw) // 2 - TRIAL_BYTES // 2)
        piece = raw[start : start + TRIAL_BYTES]
        return len(self._trial.compress(piece)) / len(piece)
