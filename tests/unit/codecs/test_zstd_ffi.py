"""zstandard's private module is used; without it everything works the same, only slower."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from bench.chunks import chunk
from poorwill.codecs import zstd_ffi
from poorwill.codecs.planes import Planes
from poorwill.codecs.zstd_ffi import Coder, open_coder
from poorwill.errors import Corrupt

RAW = chunk("fp8 e5m2", 100_000)
PRIVATE = zstd_ffi.private_module()
CODERS = {"private": PRIVATE, "public": None}
HUGE = bytes.fromhex("28b52ffd e0 ffffffffffffff3f 010000")
"""A frame that declares 2^62 - 1 bytes and holds none."""
WIDE = bytes.fromhex("28b52ffd 00 a8 010000")
"""A frame with a window of 2 GiB and no declared size."""


def framed(coder: Coder, raw: memoryview = RAW) -> bytes:
    out = memoryview(bytearray(len(raw) + 1024))
    size = coder.compress(raw, out)
    assert size is not None
    return bytes(out[:size])


def test_the_private_coder_is_there() -> None:
    """Fails when an update of zstandard or a missing cffi takes it away: weights would then be coded at a third of
    the speed, and nothing else would tell."""
    assert PRIVATE is not None
    assert type(open_coder(huffman_only=True)).__name__ == "_CffiCoder"


def test_huffman_only_frames_have_no_matches() -> None:
    """Repetitions that zstd finds at its lowest levels are left alone, and the entropy coder is at work."""
    repeating = memoryview(bytes(RAW[:1000]) * 100)
    size = len(framed(open_coder(huffman_only=True), repeating))
    assert size > 20 * len(framed(open_coder(huffman_only=False, level=1), repeating))
    assert size < 0.72 * len(repeating)


@pytest.mark.parametrize("writer", CODERS)
@pytest.mark.parametrize("reader", CODERS)
@pytest.mark.parametrize("huffman_only", [True, False])
def test_frames_are_interchangeable(writer: str, reader: str, huffman_only: bool) -> None:
    """Each coder reads the other's frames, and so does any zstd: the frame declares its size and is one frame."""
    frame = framed(open_coder(huffman_only=huffman_only, module=CODERS[writer]))
    out = memoryview(bytearray(len(RAW)))
    open_coder(huffman_only=False, module=CODERS[reader]).decompress(memoryview(frame), out)
    assert out == RAW
    assert zstandard.frame_content_size(frame) == len(RAW)
    assert zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False) == RAW


def test_planes_over_either_coder_are_interchangeable() -> None:
    """Planes written without the private coder are read with it, and the other way round."""
    for writer, reader in ((PRIVATE, None), (None, PRIVATE)):
        out, back = memoryview(bytearray(len(RAW))), memoryview(bytearray(len(RAW)))
        size = Planes(open_coder(huffman_only=True, module=writer)).encode(RAW, out)
        assert size is not None
        Planes(open_coder(huffman_only=True, module=reader)).decode(out[:size], back)
        assert back == RAW


def test_the_compression_level_is_used() -> None:
    """By both coders alike."""
    text = chunk("text", 200_000)
    for module in CODERS.values():
        sizes = [len(framed(open_coder(huffman_only=False, level=level, module=module), text)) for level in (1, 12)]
        assert sizes[1] < 0.95 * sizes[0]
    assert framed(open_coder(huffman_only=False, level=3), text) == zstandard.ZstdCompressor(level=3).compress(text)


class RefusingLibrary:
    """A libzstd that knows no parameter."""

    def __getattr__(self, name: str) -> Any:
        if name == "ZSTD_CCtx_setParameter":
            return lambda encoder, *_: PRIVATE.lib.ZSTD_CCtx_setParameter(encoder, PRIVATE.lib.ZSTD_c_strategy, 99)
        return getattr(PRIVATE.lib, name)


@pytest.mark.parametrize(
    "module",
    [
        SimpleNamespace(ffi=PRIVATE and PRIVATE.ffi, lib=SimpleNamespace()),
        SimpleNamespace(ffi=PRIVATE and PRIVATE.ffi, lib=RefusingLibrary()),
    ],
    ids=["without its functions", "refuses parameters"],
)
def test_another_zstd_falls_back(module: Any) -> None:
    """A private module without the expected functions or parameters is not used."""
    coder = open_coder(huffman_only=True, module=module)
    assert type(coder).__name__ == "_PublicCoder"
    out = memoryview(bytearray(len(RAW)))
    coder.decompress(memoryview(framed(coder)), out)
    assert out == RAW


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("length", [0, 1, len(RAW) - 1, len(RAW) + 1])
def test_a_frame_of_another_length(coder: str, length: int) -> None:
    """A sound frame of another size than expected is corrupt."""
    frame = framed(open_coder(huffman_only=False))
    with pytest.raises(Corrupt):
        open_coder(huffman_only=False, module=CODERS[coder]).decompress(
            memoryview(frame), memoryview(bytearray(length))
        )


HOSTILE = """
import resource, sys
from poorwill.codecs import zstd_ffi
from poorwill.errors import Corrupt
module = zstd_ffi.private_module() if sys.argv[1] == "private" else None
coder = zstd_ffi.open_coder(huffman_only=False, module=module)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)
for frame in sys.argv[2:]:
    for size in (1, 1 << 20):
        try:
            coder.decompress(memoryview(bytes.fromhex(frame)), memoryview(bytearray(size)))
        except Corrupt:
            continue
        sys.exit("a hostile frame was read")
"""


@pytest.mark.parametrize("coder", CODERS)
def test_declared_sizes_are_not_allocated(coder: str) -> None:
    """Frames that declare 2^62 bytes or a window of 2 GiB are refused by a process that may have 24 MiB more."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, coder, HUGE.hex(), WIDE.hex()], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
