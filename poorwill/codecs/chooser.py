"""Choosing a codec for a chunk from a few KiB of it.

The order-0 entropy of the byte planes, at strides 1, 2 and 4 and with or without rotation, estimates what Huffman
or tANS coding of the planes will give; a trial of zstd on a contiguous piece shows what repetitions give. Names and
types of files play no part. A wrong choice costs bytes, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from poorwill.codecs.base import Codec
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Layout, Planes
from poorwill.codecs.zstd import Zstd
from poorwill.errors import UsageError
from poorwill.snapshot.choices import CODECS

RAW_ABOVE = 0.98
"""Coded sizes above this share of the raw size are not worth decoding."""
PIECES, PIECE_BYTES = 16, 1024
TRIAL_BYTES = 32 << 10
PLANE_STORED_ABOVE = 0.97
ZSTD_BETTER_BY = 0.95
WIDER_BY_LEAST = 0.002
"""Wider elements must win by more than the noise of a sample."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What coding the planes of `layout` is expected to give, as coded / raw."""

    ratio: float
    layout: Layout


def estimate(raw: memoryview) -> Estimate:
    """The best plane layout for a chunk, by sampling."""
    sample = _sample(raw)
    if not len(sample):
        return Estimate(1.0, Layout(1, False, 0))
    quads = _histograms(sample.view("<u4"))
    pairs = quads[:2] + quads[2:]
    by_layout = {
        (1, False): pairs[:1] + pairs[1:],
        (2, True): _histograms(_rotated(sample.view("<u2"))),
        (2, False): pairs,
        (4, True): _histograms(_rotated(sample.view("<u4"))),
        (4, False): quads,
    }
    shares = iter((_bits(np.concatenate(list(by_layout.values()))) / 8).tolist())
    estimates = [_of_layout(width, rotated, list(islice(shares, width))) for width, rotated in by_layout]
    return min(estimates, key=lambda e: e.ratio + WIDER_BY_LEAST * e.layout.width)


def _sample(raw: memoryview) -> Array:
    data = np.frombuffer(raw, np.uint8)
    if len(data) <= PIECES * PIECE_BYTES:
        return data[: len(data) // 4 * 4]
    starts = np.linspace(0, len(data) - PIECE_BYTES, PIECES).astype(np.int64) // 4 * 4
    return np.concatenate([data[s : s + PIECE_BYTES] for s in starts.tolist()])


def _rotated(words: Array) -> Array:
    rotated: Array = (words << 1) | (words >> (8 * words.itemsize - 1))
    return rotated


def _histograms(words: Array) -> Array:
    """How often each byte value stands in each plane: planes x 256."""
    planes = words.view(np.uint8).reshape(-1, words.itemsize)
    cells = planes + np.arange(0, 256 * words.itemsize, 256)
    return np.bincount(cells.reshape(-1), minlength=256 * words.itemsize).reshape(-1, 256)


def _bits(histograms: Array) -> Array:
    """Bits a symbol of each histogram takes when coded."""
    totals = histograms.sum(axis=1)
    symbols = np.count_nonzero(histograms, axis=1)
    shares = histograms / totals[:, None]
    entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=1)
    # A sample sees fewer symbols than there are: the Miller-Madow term corrects the estimate.
    entropy += (symbols - 1) / (2 * totals * math.log(2))
    # The shortest code of a Huffman tree has one bit; a plane of one value is a run.
    return np.where(symbols > 1, np.maximum(entropy, 1.0), 0.0)


def _of_layout(width: int, rotated: bool, shares: list[float]) -> Estimate:
    coded = [share <= PLANE_STORED_ABOVE for share in shares]
    total = sum(share if c else 1.0 for share, c in zip(shares, coded, strict=True))
    return Estimate(total / width, Layout(width, rotated, sum(c << k for k, c in enumerate(coded))))


class LayoutCodec(Codec, Protocol):
    """A codec that sees each chunk as its `layout` says."""

    layout: Layout


class Chooser:
    """Encodes chunks with the codec that a policy and a sample of each choose. Belongs to one thread."""

    def __init__(self, policy: str, on_gpu: LayoutCodec | None = None) -> None:
        """on_gpu: what is tried before the CPU's codecs, by the policies "auto" and "ans"."""
        if policy not in CODECS:
            raise UsageError(f"codec '{policy}': expected one of {', '.join(CODECS)}")
        self.policy = policy
        self._zstd = Zstd()
        self._by_layout: list[LayoutCodec] = [Planes()]
        """In the order in which they are tried."""
        if policy in ("auto", "ans") and on_gpu is not None:
            self._by_layout.insert(0, on_gpu)
        elif policy == "ans":
            self._by_layout.insert(0, OpenZL())
        self._trial = zstandard.ZstdCompressor(level=1)

    def encode(self, raw: memoryview, out: memoryview) -> tuple[int, int]:
        """(codec id, coded bytes in `out`); (0, len(raw)) and nothing written when raw is the best there is."""
        for codec in self._choices(raw):
            size = codec.encode(raw, out)
            if size is not None and size <= len(raw) * RAW_ABOVE:
                return codec.id, size
        return 0, len(raw)

    def _choices(self, raw: memoryview) -> Sequence[Codec]:
        if self.policy == "raw" or not len(raw):
            return []
        if self.policy == "zstd":
            return [self._zstd]
        best = estimate(raw)
        if self.policy != "planes" and self._repeats(raw) < best.ratio * ZSTD_BETTER_BY:
            return [self._zstd]
        if best.ratio > RAW_ABOVE:
            return []
        for codec in self._by_layout:
            codec.layout = best.layout
        return self._by_layout

    def _repeats(self, raw: memoryview) -> float:
        start = max(0, len(raw) // 2 - TRIAL_BYTES // 2)
        piece = raw[start : start + TRIAL_BYTES]
        return len(self._trial.compress(piece)) / len(piece)
