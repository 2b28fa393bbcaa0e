"""Id 3: OpenZL frames with tANS (FSE): the last half percent on a CPU, at half the speed of planes.

OpenZL 0.3 holds the GIL while it works, so threads do not scale with it. Its frames carry checksums.
"""

from __future__ import annotations

import importlib
from typing import Any

from poorwill.codecs.planes import Layout
from poorwill.errors import Corrupt, Unsupported

FORMAT_VERSION = 27
"""The newest frame format that is written; each frame names its own."""


class OpenZL:
    """Encodes by `layout`, which the chooser sets, with tANS over the planes; decodes any frame."""

    id = 3
    name = "openzl"

    def __init__(self) -> None:
        try:
            self._zl: Any = importlib.import_module("openzl.ext")
        except ImportError:
            raise Unsupported("codec 'openzl' needs the package openzl (>=0.1), which is not installed here") from None
        self._compressors: dict[str, Any] = {}
        self._decoder = self._zl.DCtx()
        self.layout = Layout(2, True, 0b10)

    def _compressor(self, elements: str) -> Any:
        if elements not in self._compressors:
            zl = self._zl
            compressor = zl.Compressor()
            entropy = zl.graphs.Fse()(compressor)
            if elements == "bf16":
                split = zl.nodes.BFloat16Deconstruct()(
                    compressor, sign_frac=zl.graphs.Store()(compressor), exponent=entropy
                )
                start = zl.nodes.ConvertSerialToNumLE16()(compressor, split)
            elif elements == "u8":
                start = entropy
            else:
                # Entropy chooses Huffman, FSE or nothing for each plane.
                planes = zl.nodes.TransposeSplit()(compressor, zl.graphs.Entropy()(compressor))
                start = zl.nodes.ConvertSerialToStruct(4 if elements == "u32" else 2)(compressor, planes)
            compressor.select_starting_graph(start)
            compressor.set_parameter(zl.CParam.FormatVersion, min(FORMAT_VERSION, zl.MAX_FORMAT_VERSION))
            self._compressors[elements] = compressor
        return self._compressors[elements]

    def encode(self, raw: memoryview, out: memoryview) -> int | None:
        width = self.layout.width if len(raw) % self.layout.width == 0 else 1
        context = self._zl.CCtx()
        context.ref_compressor(self._compressor("bf16" if width == 2 and self.layout.rotated else f"u{8 * width}"))
        try:
            frame = context.compress([self._zl.Input(self._zl.Type.Serial, raw)])
        except RuntimeError:
            return None  # nothing it can code: the caller stores the chunk otherwise
        if len(frame) >= min(len(raw), len(out)):
            return None
        out[: len(frame)] = frame
        return len(frame)

    def decode(self, stored: memoryview, out: memoryview) -> None:
        frame = bytes(stored)
        try:
            info = self._zl.FrameInfo(frame)
            declared = [info.output_content_size(n) for n in range(min(2, info.num_outputs))]
            # The library allocates what a frame declares: that is compared first.
            if declared != [len(out)]:
                raise Corrupt(f"openzl: a frame of outputs {declared}, expected one of {len(out)} bytes")
            data = memoryview(self._decoder.decompress(frame)[0].content.as_bytes())
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise Corrupt("openzl: " + (", ".join(str(error).splitlines()[:2]) or type(error).__name__)) from None
        if len(data) != len(out):
            raise Corrupt(f"openzl: a frame of {len(data)} bytes, expected {len(out)}")
        out[:] = data
