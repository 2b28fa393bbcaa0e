"""Sizes that codecs and the chooser reach on every kind of data; not speeds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bench.chunks import KINDS, chunk
from poorwill.codecs import registry
from poorwill.codecs.chooser import Chooser, estimate
from poorwill.codecs.planes import Layout, Planes
from poorwill.codecs.zstd import Zstd

SIZE = 1 << 20
RAW, ZSTD, PLANES, OPENZL = (registry.ID_BY_NAME[name] for name in ("raw", "zstd", "planes", "openzl"))
LAYOUTS = [Layout(w, r, (1 << w) - 1) for w, r in ((1, False), (2, True), (2, False), (4, True), (4, False))]
SAMPLE_NOISE = 0.005
EXPECTED = {
    "bf16": (PLANES, 0.668),
    "fp16": (PLANES, 0.855),
    "fp32": (PLANES, 0.84),
    "fp32 of bf16": (PLANES, 0.345),
    "fp32 of fp16": (PLANES, 0.44),
    "fp8 e5m2": (PLANES, 0.71),
    "fp8 e4m3": (PLANES, 0.84),
    "int8": (PLANES, 0.91),
    "q4_0": (PLANES, 0.96),
    "int64 indices": (ZSTD, 0.2),
    "text": (ZSTD, 0.32),
    "zeros": (PLANES, 0.001),
    "random": (RAW, 1.0),
}


def test_every_kind_is_expected() -> None:
    assert EXPECTED.keys() == KINDS.keys()


@pytest.fixture(scope="module")
def out() -> memoryview:
    return memoryview(bytearray(SIZE))


def coded_sizes(raw: memoryview, out: memoryview) -> Iterator[int]:
    """By planes in every layout, then by zstd."""
    codec = Planes()
    for codec.layout in LAYOUTS:
        yield codec.encode(raw, out) or len(raw)
    yield Zstd().encode(raw, out) or len(raw)


@pytest.mark.parametrize("kind", EXPECTED)
def test_ratio(kind: str, out: memoryview) -> None:
    """`auto` takes the expected codec and reaches the expected size, and decodes."""
    raw = chunk(kind, SIZE)
    codec, size = Chooser("auto").encode(raw, out)
    assert (codec, size / SIZE <= EXPECTED[kind][1]) == (EXPECTED[kind][0], True), size / SIZE
    if codec:
        back = memoryview(bytearray(SIZE))
        registry.make(codec).decode(out[:size], back)
        assert back == raw


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_the_choice_is_suitable(kind: str, out: memoryview) -> None:
    """What is chosen from a sample is within 0.5% of the raw size of the best that all layouts and zstd could do."""
    for seed in (1, 2):
        raw = chunk(kind, SIZE, seed)
        _, size = Chooser("auto").encode(raw, out)
        assert size <= min(coded_sizes(raw, out)) + SAMPLE_NOISE * SIZE


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32", "fp32 of bf16"])
def test_the_estimate_is_near(kind: str, out: memoryview) -> None:
    """The estimate foretells the coded size within 1% of the raw size."""
    raw = chunk(kind, SIZE)
    size = Planes().encode(raw, out) if kind == "bf16" else Chooser("planes").encode(raw, out)[1]
    assert size is not None
    assert abs(estimate(raw).ratio - size / SIZE) < 0.01


def test_tans_is_smaller(out: memoryview) -> None:
    """`ans` takes OpenZL for weights, and it saves what `auto` leaves to be faster: 0.2% or more of bf16."""
    raw = chunk("bf16", SIZE)
    codec, size = Chooser("ans").encode(raw, out)
    assert codec == OPENZL
    assert size <= 0.998 * Chooser("auto").encode(raw, out)[1]


@pytest.mark.parametrize("policy", ["auto", "ans", "planes", "zstd", "raw"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 5001])
def test_small_chunks(policy: str, size: int) -> None:
    """Small bundles are coded where it helps, and never grow."""
    chooser = Chooser(policy)
    for kind in ("bf16", "text", "zeros", "random"):
        raw, out = chunk(kind, 5008)[:size], memoryview(bytearray(size))
        codec, length = chooser.encode(raw, out)
        assert length < size or (codec, length) == (RAW, size)
        if codec:
            back = memoryview(bytearray(size))
            registry.make(codec).decode(out[:length], back)
            assert back == raw


def test_an_empty_chunk() -> None:
    """There is nothing to code."""
    assert Chooser("auto").encode(memoryview(b""), memoryview(bytearray(0))) == (RAW, 0)


def test_a_mixed_chunk_is_judged_by_all_of_it(out: memoryview) -> None:
    """Weights behind half a chunk of noise are still found."""
    noise = np.frombuffer(chunk("random", SIZE // 2), np.uint8)
    mixed = memoryview(np.concatenate([noise, np.frombuffer(chunk("bf16", SIZE // 2), np.uint8)]).tobytes())
    codec, size = Chooser("auto").encode(mixed, out)
    assert codec == PLANES
    assert size < 0.85 * SIZE


def test_the_choice_has_no_memory(out: memoryview) -> None:
    """A chunk is coded to the same bytes whatever the same chooser coded before it."""
    used = Chooser("auto")
    for kind in ("text", "fp32", "random", "bf16", "int8"):
        raw = chunk(kind, SIZE // 4)
        codec, size = used.encode(raw, out)
        first = bytes(out[:size])
        assert Chooser("auto").encode(raw, out) == (codec, size)
        assert bytes(out[:size]) == first or codec == RAW
