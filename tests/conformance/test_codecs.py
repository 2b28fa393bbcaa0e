"""Every codec passes the suite; planes in every layout, and over the public zstd as well as the private one.

Those of a GPU pass it over the double of its libraries here, and over the real ones in tests/gpu.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.conformance.codec_suite")

from bench.chunks import chunk  # noqa: E402
from poorwill.codecs.base import Codec  # noqa: E402
from poorwill.codecs.gpu.gpu_pool import open_gpus  # noqa: E402
from poorwill.codecs.gpu.nvcomp import NvcompAns, PlanesOnGpu  # noqa: E402
from poorwill.codecs.openzl import OpenZL  # noqa: E402
from poorwill.codecs.planes import PLANE_BLOCK_BYTES, Layout, Planes  # noqa: E402
from poorwill.codecs.raw import Raw  # noqa: E402
from poorwill.codecs.zstd import Zstd  # noqa: E402
from poorwill.codecs.zstd_ffi import open_coder  # noqa: E402
from poorwill.errors import Corrupt  # noqa: E402
from tests.conformance.codec_suite import CodecSuite, decoded, encoded  # noqa: E402
from tests.golden.reader import joined_planes  # noqa: E402
from tests.support.doubles.fake_cuda import FakeCuda  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "codecs.md"
LAYOUTS = [Layout(w, r, coded) for w, r in ((1, False), (2, True), (2, False), (4, True), (4, False))
           for coded in {1 << (w - 1), (1 << w) - 1}]  # fmt: skip
KIND_OF_WIDTH = {1: "fp8 e5m2", 2: "bf16", 4: "fp32 of bf16"}


class TestRaw(CodecSuite):
    def make(self) -> Codec:
        return Raw()


class TestZstd(CodecSuite):
    def make(self) -> Codec:
        return Zstd()


class TestZstdInPublic(CodecSuite):
    def make(self) -> Codec:
        return Zstd(open_coder(huffman_only=False, module=None))


class TestPlanes(CodecSuite):
    """The layout that the chooser takes for bf16."""

    def make(self) -> Codec:
        return Planes()


class TestPlanesInPublic(CodecSuite):
    def make(self) -> Codec:
        return Planes(open_coder(huffman_only=True, module=None))


class TestPlanesOfBytes(CodecSuite):
    gains_on = "fp8 e5m2"

    def make(self) -> Codec:
        return planes(Layout(1, False, 1))


class TestPlanesOfFourBytes(CodecSuite):
    gains_on = "fp32 of bf16"

    def make(self) -> Codec:
        return planes(Layout(4, True, 0b1111))


class TestOpenZL(CodecSuite):
    def make(self) -> Codec:
        return OpenZL()


class TestOpenZLOfFourBytes(CodecSuite):
    gains_on = "fp32 of bf16"

    def make(self) -> Codec:
        codec = OpenZL()
        codec.layout = Layout(4, False, 0b1111)
        return codec


ON_GPU = open_gpus(FakeCuda().libraries(), lanes=1)
"""One lane: the double's scratch memory counts as the codec's. Its thread is a daemon, and waits."""


class TestNvcompAns(CodecSuite):
    """nvCOMP's own type for the halves of floats."""

    def make(self) -> Codec:
        return NvcompAns(ON_GPU)


class TestNvcompAnsOfBytes(CodecSuite):
    gains_on = "fp8 e5m2"

    def make(self) -> Codec:
        return ans(Layout(1, False, 1))


class TestNvcompAnsOfPlanes(CodecSuite):
    """Split on the device: two planes coded, two stored."""

    gains_on = "fp32 of bf16"

    def make(self) -> Codec:
        return ans(Layout(4, True, 0b1010))


class TestPlanesOnGpu(CodecSuite):
    """Written by the GPU, read by the CPU."""

    def make(self) -> Codec:
        return PlanesOnGpu(ON_GPU)


class TestPlanesOfBytesOnGpu(CodecSuite):
    gains_on = "fp8 e5m2"

    def make(self) -> Codec:
        codec = PlanesOnGpu(ON_GPU)
        codec.layout = Layout(1, False, 1)
        return codec


def ans(layout: Layout) -> NvcompAns:
    codec = NvcompAns(ON_GPU)
    codec.layout = layout
    return codec


def planes(layout: Layout) -> Planes:
    codec = Planes()
    codec.layout = layout
    return codec


def vector(name: str) -> bytes:
    found = re.search(rf"<!-- vector: {name} -->\n```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return bytes.fromhex(found[1])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_planes_of_a_gpu_by_an_independent_decoder(layout: Layout) -> None:
    """What a GPU writes as planes is what the page says, in every layout."""
    raw = bytes(chunk(KIND_OF_WIDTH[layout.width], PLANE_BLOCK_BYTES * layout.width + 4096)) + b"\1\2\3"
    codec = PlanesOnGpu(ON_GPU)
    codec.layout = layout
    stored = encoded(codec, raw)
    assert stored is not None
    assert joined_planes(stored, len(raw)) == raw


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("odd", [0, 3])
def test_planes_by_an_independent_decoder(layout: Layout, odd: int) -> None:
    """A decoder written from docs/codecs.md alone, and this one, read every layout: blocks, a short one, a tail."""
    raw = bytes(chunk(KIND_OF_WIDTH[layout.width], PLANE_BLOCK_BYTES * layout.width + 4096)) + bytes(range(odd))
    stored = encoded(planes(layout), raw)
    assert stored is not None
    assert joined_planes(stored, len(raw)) == raw
    assert decoded(Planes(), stored, len(raw)) == raw


def test_the_vector_of_the_page() -> None:
    """The bytes printed in docs/codecs.md decode to those printed beside them."""
    assert joined_planes(vector("planes"), len(vector("raw"))) == vector("raw")
    assert decoded(Planes(), vector("planes"), len(vector("raw"))) == vector("raw")


def header(**changes: int) -> bytes:
    """A vector of planes whose header says something else."""
    fields = {"version": 1, "width": 2, "flags": 1, "coded": 2, "block": 4096, "raw": 81, **changes}
    return struct.pack("<BBBBII", *fields.values()) + vector("planes")[12:]


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"version": 0}, {"width": 0}, {"width": 3}, {"width": 8}, {"flags": 3}, {"flags": 128},
     {"raw": 80}, {"raw": 2**32 - 1}, {"block": 0}, {"block": 2}, {"block": 4094}, {"block": 4097},
     {"block": (8 << 20) + 2}],
    ids=str,
)  # fmt: skip
def test_planes_with_a_false_header(changes: dict[str, int]) -> None:
    """Every rule of the header is held."""
    assert decoded(Planes(), header(coded=0), 81) == vector("raw")
    with pytest.raises(Corrupt):
        decoded(Planes(), header(**changes), 81)


@pytest.mark.parametrize(
    ("low", "high"),
    [(39, 1 << 31 | 10), (41, 1 << 31 | 10), (40, 10), (40, 1 << 31 | 9), (40, 1 << 31 | 11), (40, 1 << 31),
     (0, 1 << 31 | 10), (2**31 - 1, 2**32 - 1), (40, 2**32 - 1), (1 << 31 | 40, 1 << 31 | 10)],
)  # fmt: skip
def test_planes_with_false_sizes(low: int, high: int) -> None:
    """Sizes that do not fit each other, the block, or the stored bytes."""
    with pytest.raises(Corrupt):
        decoded(Planes(), vector("planes")[:12] + struct.pack("<II", low, high) + vector("planes")[20:], 81)


def test_planes_cut_within_a_stored_plane_that_is_last() -> None:
    """Numbers whose high bytes are noise: the plane that ends the chunk is stored, and is never read beyond its end."""
    raw = b"".join(bytes((0, byte)) for byte in chunk("random", 4000))
    stored = encoded(planes(Layout(2, False, 0b01)), raw)
    assert stored is not None
    assert decoded(Planes(), stored, len(raw)) == raw
    for cut in (1, 2, 100, 3998, 3999, 4000):
        with pytest.raises(Corrupt):
            decoded(Planes(), stored[:-cut], len(raw))


def test_openzl_compares_the_declared_size() -> None:
    """Before it decodes: a frame of 16 MiB of zeros is a few bytes."""
    stored = encoded(OpenZL(), bytes(16 << 20))
    assert stored is not None
    with pytest.raises(Corrupt, match=r"openzl: a frame of outputs \[16777216\], expected one of 100 bytes"):
        decoded(OpenZL(), stored, 100)
