"""The codecs of a GPU on the real one: the suite that every codec passes, every layout, large batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

pytest.register_assert_rewrite("tests.conformance.codec_suite")

from bench.chunks import chunk  # noqa: E402
from poorwill.codecs import planes  # noqa: E402
from poorwill.codecs.base import Codec  # noqa: E402
from poorwill.codecs.chooser import LayoutCodec, estimate  # noqa: E402
from poorwill.codecs.gpu import nvcomp_form  # noqa: E402
from poorwill.codecs.gpu.gpu import Gpu  # noqa: E402
from poorwill.codecs.gpu.gpu_pool import Gpus, open_gpus  # noqa: E402
from poorwill.codecs.gpu.nvcomp import NvcompAns, PlanesOnGpu  # noqa: E402
from poorwill.codecs.planes import Layout, Planes  # noqa: E402
from tests.conformance.codec_suite import CodecSuite, decoded, encoded  # noqa: E402
from tests.golden.reader import joined_planes  # noqa: E402
from tests.gpu.device import gpus, libraries, needed  # noqa: E402

needed()

CHUNK_BYTES = 8 << 20
LAYOUTS = [Layout(w, r, coded) for w, r in ((1, False), (2, True), (2, False), (4, True), (4, False))
           for coded in sorted({1 << (w - 1), (1 << w) - 1})]  # fmt: skip
KIND_OF_WIDTH = {1: "fp8 e5m2", 2: "bf16", 4: "fp32 of bf16"}
RATIO_MAX = {"bf16": 0.668, "fp16": 0.86, "fp32": 0.85, "fp32 of bf16": 0.36, "fp8 e5m2": 0.72, "fp8 e4m3": 0.85,
             "int8": 0.92}  # fmt: skip
"""Of whole chunks: little more than what the CPU's codecs reach."""


def of(codec: LayoutCodec, layout: Layout) -> LayoutCodec:
    codec.layout = layout
    return codec


class OnGpu(CodecSuite):
    """No sample so small that it does not outweigh the tables which a stream of nvCOMP has."""

    def coded_sample(self, codec: Codec, size: int = 40_000) -> tuple[bytes, bytes]:
        return super().coded_sample(codec, max(size, 16_000))


class TestNvcompAnsOnADevice(OnGpu):
    """nvCOMP's own type for the halves of floats."""

    def make(self) -> Codec:
        return NvcompAns(gpus())


class TestNvcompAnsOfBytesOnADevice(OnGpu):
    gains_on = "fp8 e5m2"

    def make(self) -> Codec:
        return of(NvcompAns(gpus()), Layout(1, False, 1))


class TestNvcompAnsOfFloatsOnADevice(OnGpu):
    gains_on = "fp32"

    def make(self) -> Codec:
        return of(NvcompAns(gpus()), Layout(4, True, 0b1000))


class TestNvcompAnsOfPlanesOnADevice(OnGpu):
    gains_on = "fp32 of bf16"

    def make(self) -> Codec:
        return of(NvcompAns(gpus()), Layout(4, True, 0b1111))


class TestPlanesOnADevice(OnGpu):
    """Written by the GPU, read by the CPU."""

    def make(self) -> Codec:
        return PlanesOnGpu(gpus())


class TestPlanesOfBytesOnADevice(OnGpu):
    gains_on = "fp8 e5m2"

    def make(self) -> Codec:
        return of(PlanesOnGpu(gpus()), Layout(1, False, 1))


@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_stored_form(layout: Layout, odd: int) -> None:
    """Every layout, with a tail and without: stored as its form says, and read by another opening of the GPU."""
    raw = bytes(chunk(KIND_OF_WIDTH[layout.width], 3 << 20)) + bytes(range(odd))
    stored = encoded(of(NvcompAns(gpus()), layout), raw)
    assert stored is not None
    form, streams, _ = nvcomp_form.read(memoryview(stored), len(raw))
    assert form == nvcomp_form.form_of(layout)
    assert all(stream.offset % nvcomp_form.ALIGNMENT == 0 for stream in streams)
    others = open_gpus(libraries())
    try:
        assert decoded(NvcompAns(others), stored, len(raw)) == raw
    finally:
        others.close()


@pytest.mark.parametrize("odd", [0, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_planes_are_standard(layout: Layout, odd: int) -> None:
    """What a GPU writes as planes is what docs/codecs.md says: an independent decoder and the CPU's codec read it, and
    each frame says its content size and uses no dictionary."""
    raw = bytes(chunk(KIND_OF_WIDTH[layout.width], 3 << 20)) + bytes(range(odd))
    stored = encoded(of(PlanesOnGpu(gpus()), layout), raw)
    assert stored is not None
    assert joined_planes(stored, len(raw)) == raw
    assert decoded(Planes(), stored, len(raw)) == raw
    for frame, count in planes.frames(memoryview(stored), len(raw)):
        said = zstandard.get_frame_parameters(frame)
        assert (said.content_size, said.dict_id) == (count, 0)


@pytest.mark.parametrize("kind", RATIO_MAX)
def test_ratios_of_whole_chunks(kind: str) -> None:
    """The form that the chooser's layout leads to is as small as it has to be."""
    raw = chunk(kind, CHUNK_BYTES)
    stored = encoded(of(NvcompAns(gpus()), estimate(raw).layout), bytes(raw))
    assert stored is not None
    assert len(stored) / CHUNK_BYTES <= RATIO_MAX[kind]


def test_many_threads_at_once() -> None:
    """Chunks of all kinds, sizes and forms in the same batches: each comes back as it was, and no GPU was given up."""
    used, kinds = gpus(), sorted(RATIO_MAX)
    before = used.fell_back

    def there_and_back(number: int) -> bool:
        raw = bytes(chunk(kinds[number % len(kinds)], (1 + number % 9) * 400_000, number % 3)[: -(number % 4) or None])
        codec = of(NvcompAns(used), estimate(memoryview(raw)).layout)
        stored = encoded(codec, raw)
        return stored is not None and decoded(codec, stored, len(raw)) == raw

    with ThreadPoolExecutor(32) as threads:
        assert all(threads.map(there_and_back, range(256)))
    assert used.usable and used.fell_back == before


def test_one_batch_of_many_chunks() -> None:
    """A lane that may take all at once codes them as one that takes them alone."""
    raws = [bytes(chunk("bf16", 1 << 20, seed)) for seed in range(24)]
    alone = [encoded(NvcompAns(gpus()), raw) for raw in raws]
    one = Gpus(libraries(), [Gpu(libraries(), 0, lanes=1, batch_bytes=64 << 20)])
    try:
        with ThreadPoolExecutor(len(raws)) as threads:
            together = list(threads.map(lambda raw: encoded(NvcompAns(one), raw), raws))
    finally:
        one.close()
    assert together == alone


def test_a_damaged_chunk_fails_alone() -> None:
    """Threads that decode damaged chunks beside threads that decode sound ones: these get theirs, and the GPU stays."""
    raw = bytes(chunk("bf16", 1 << 20))
    stored = encoded(NvcompAns(gpus()), raw)
    assert stored is not None
    damaged = bytearray(stored)
    damaged[len(stored) // 3 : len(stored) // 3 + 64] = bytes(64)

    def work(number: int) -> bool:
        if number % 3:
            return decoded(NvcompAns(gpus()), stored, len(raw)) == raw
        try:
            decoded(NvcompAns(gpus()), bytes(damaged), len(raw))
        except Exception as error:
            return type(error).__name__ == "Corrupt"
        return True  # the hash of the raw bytes would tell

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(work, range(96)))
    assert gpus().usable
