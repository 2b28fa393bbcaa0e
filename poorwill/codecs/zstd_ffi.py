"""zstd into and out of buffers we own, through the cffi module that the `zstandard` wheel carries.

Its public API returns bytes objects of its own and cannot ask for Huffman-only frames. `zstandard._cffi` is private:
`open_coder` uses it where it works, and the public API where it does not.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import zstandard

from poorwill.errors import Corrupt

_LITERALS_ONLY_LEVEL = -131072
"""So negative a level that no match is ever found: what is left of zstd is its Huffman coder."""


class Coder(Protocol):
    """Frames between buffers. One instance belongs to one thread."""

    def compress(self, raw: memoryview, out: memoryview) -> int | None:
        """Write one standard frame of `raw` into `out`; its length, or None if it does not fit."""

    def decompress(self, frame: memoryview, out: memoryview) -> None:
        """Fill `out` exactly from one frame, or raise Corrupt."""


class _CffiCoder:
    def __init__(self, module: Any, huffman_only: bool, level: int) -> None:
        self._ffi, self._lib = module.ffi, module.lib
        lib = self._lib
        self._encoder = self._ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        self._decoder = self._ffi.gc(lib.ZSTD_createDCtx(), lib.ZSTD_freeDCtx)
        self._set(lib.ZSTD_c_compressionLevel, _LITERALS_ONLY_LEVEL if huffman_only else level)
        if huffman_only:
            self._set(lib.ZSTD_c_literalCompressionMode, lib.ZSTD_ps_enable)

    def _set(self, parameter: Any, value: int) -> None:
        if self._lib.ZSTD_isError(self._lib.ZSTD_CCtx_setParameter(self._encoder, parameter, value)):
            raise AttributeError("this zstd refuses a parameter")

    def compress(self, raw: memoryview, out: memoryview) -> int | None:
        lib, view = self._lib, self._ffi.from_buffer
        size = lib.ZSTD_compress2(self._encoder, view(out, require_writable=True), len(out), view(raw), len(raw))
        return None if lib.ZSTD_isError(size) else int(size)

    def decompress(self, frame: memoryview, out: memoryview) -> None:
        lib, view = self._lib, self._ffi.from_buffer
        size = lib.ZSTD_decompressDCtx(
            self._decoder, view(out, require_writable=True), len(out), view(frame), len(frame)
        )
        if lib.ZSTD_isError(size):
            raise Corrupt(f"zstd: {self._ffi.string(lib.ZSTD_getErrorName(size)).decode()}")
        if size != len(out):
            raise Corrupt(f"zstd: a frame of {size} bytes, expected {len(out)}")


class _PublicCoder:
    def __init__(self, huffman_only: bool, level: int) -> None:
        # Tables too small to find matches in are as near to Huffman alone as public parameters come.
        parameters = zstandard.ZstdCompressionParameters(
            window_log=17, chain_log=6, hash_log=6, search_log=1, min_match=7, target_length=0,
            strategy=zstandard.STRATEGY_DFAST,
        )  # fmt: skip
        chosen: dict[str, Any] = {"compression_params": parameters} if huffman_only else {"level": level}
        self._encoder = zstandard.ZstdCompressor(**chosen)
        self._decoder = zstandard.ZstdDecompressor()

    def compress(self, raw: memoryview, out: memoryview) -> int | None:
        frame = self._encoder.compress(raw)
        if len(frame) > len(out):
            return None
        out[: len(frame)] = frame
        return len(frame)

    def decompress(self, frame: memoryview, out: memoryview) -> None:
        # decompress() allocates what the frame declares: that is compared first.
        try:
            declared = zstandard.get_frame_parameters(frame).content_size
            if declared != len(out):
                raise Corrupt(f"zstd: a frame that declares {declared} bytes, expected {len(out)}")
            out[:] = self._decoder.decompress(frame, allow_extra_data=False) if declared else b""
        except (zstandard.ZstdError, ValueError) as error:
            raise Corrupt(f"zstd: {error}") from None


def private_module() -> Any:
    """`zstandard._cffi`, or None where it is missing or lacks what is used of it."""
    try:
        module = importlib.import_module("zstandard._cffi")
        for name in ("ZSTD_compress2", "ZSTD_decompressDCtx", "ZSTD_c_literalCompressionMode", "ZSTD_ps_enable"):
            getattr(module.lib, name)
        return module
    except (ImportError, AttributeError):
        return None


_MODULE = private_module()


def open_coder(*, huffman_only: bool, level: int = 1, module: Any = _MODULE) -> Coder:
    """A coder for the calling thread alone. huffman_only: without the private module such frames are a little larger
    and slower to write; every decoder reads them just the same."""
    if module is not None:
        try:
            return _CffiCoder(module, huffman_only, level)
        except AttributeError:
            pass  # another version of zstd: the public API does
    return _PublicCoder(huffman_only, level)
