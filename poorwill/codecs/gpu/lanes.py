"""One stream of one GPU, and the memory that it works in.

Copies go straight between the callers' buffers and the device; they overlap with the work of other lanes where those
buffers are pinned, and are merely slower where they are not. nvCOMP's API: docs.nvidia.com/cuda/nvcomp/py_api.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from poorwill.codecs.gpu.layout import stacked
from poorwill.codecs.gpu.libraries import Libraries

Array = Any
_TO_DEVICE, _TO_HOST = 1, 2
_MOST_STEP_BYTES = 64 << 10
_ELEMENTS = {"|u1": "uint8", "<f2": "float16", "<f4": "float32"}


@dataclass(frozen=True, slots=True)
class Coded:
    """Streams that nvCOMP wrote: its own batch, and each one's place in `buffer` and size."""

    batch: Any
    buffer: Array
    offsets: list[int]
    sizes: list[int]

    def stream(self, number: int) -> Array:
        at = self.offsets[number]
        return self.buffer[at : at + self.sizes[number]]


class Lane:
    """Belongs to the thread that makes it. Every method that starts work on the GPU is to be called inside `with`."""

    def __init__(self, libraries: Libraries, device: int) -> None:
        self.cupy, self.nvcomp, self.device = libraries.cupy, libraries.nvcomp, device
        self.cupy.cuda.Device(device).use()
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.buffer_bytes_min = 0
        """The least that a buffer is made with: buffers that grow leave their former memory with CuPy."""
        self._buffers: dict[str, Array] = {}
        self._codecs: dict[tuple[Any, ...], Any] = {}
        self._most: dict[tuple[Any, int], int] = {}

    def __enter__(self) -> Lane:
        self.stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stream.__exit__(*error)

    def buffer(self, name: str, size: int) -> Array:
        """Device memory of that name, `size` bytes of undefined content, kept until more is asked for."""
        kept = self._buffers.pop(name, None)
        if kept is None or kept.size < size:
            kept = None  # free the old one first
            kept = self.cupy.empty(max(size, self.buffer_bytes_min), self.cupy.uint8)
        self._buffers[name] = kept
        return kept[:size]

    def free(self) -> None:
        """Give all memory back to the device."""
        self._buffers.clear()
        self._codecs.clear()
        self._most.clear()
        self.cupy.get_default_memory_pool().free_all_blocks()

    def copy_in(self, target: Array, source: memoryview) -> None:
        """Begin to copy `source`, which has to stay as it is until `synchronize`."""
        self._copy(target.data.ptr, address(source), len(source), _TO_DEVICE)

    def copy_out(self, target: memoryview, source: Array) -> None:
        """Begin to copy to `target`, which is filled after `synchronize`."""
        self._copy(address(target), source.data.ptr, len(target), _TO_HOST)

    def _copy(self, target: int, source: int, size: int, direction: int) -> None:
        self.cupy.cuda.runtime.memcpyAsync(target, source, size, direction, self.stream.ptr)

    def synchronize(self) -> None:
        """Wait for all that was begun: asleep, and without the interpreter's lock (GIL).

        nvCOMP's own waits hold that lock, and would stop every thread of the engine, so that whatever of nvCOMP may
        wait is to be called with nothing left to wait for.
        """
        event = self.cupy.cuda.Event(block=True, disable_timing=True)
        event.record(self.stream)
        event.synchronize()

    def codec(self, **options: Any) -> Any:
        """nvCOMP's codec with these options, on this stream.

        Without checksums of its own: every chunk is hashed before it is decoded, and after.
        """
        key = tuple(sorted((name, str(value)) for name, value in options.items()))
        if key not in self._codecs:
            unchecked = self.nvcomp.ChecksumPolicy.NO_COMPUTE_NO_VERIFY
            self._codecs[key] = self.nvcomp.Codec(
                device_id=self.device, cuda_stream=self.stream.ptr, checksum_policy=unchecked, **options
            )
        return self._codecs[key]

    def compress(self, codec: Any, area: Array, kind: str, places: list[tuple[int, int]]) -> Coded:
        """Code these (offset, bytes) of `area`, as elements of `kind`; waits for the sizes. The buffer is `coded`."""
        most = [self._most_of(codec, size) for _, size in places]
        offsets, end = stacked(most)
        buffer = self.buffer("coded", end)
        source = self._batch(area.view(getattr(self.cupy, _ELEMENTS[kind])), places)
        done = codec.encode(source, out=self._batch(buffer, list(zip(offsets, most, strict=True))))
        self.synchronize()  # before nvCOMP is asked for sizes
        return Coded(done, buffer, offsets, list(done.buffer_sizes))

    def _most_of(self, codec: Any, size: int) -> int:
        size = -(-size // _MOST_STEP_BYTES) * _MOST_STEP_BYTES
        if (codec, size) not in self._most:
            array = self.nvcomp.as_array(self.buffer("coded", size), self.stream.ptr)
            self._most[codec, size] = int(codec.get_max_comp_buffer_size(array))
        return self._most[codec, size]

    def _batch(self, area: Array, places: list[tuple[int, int]]) -> Any:
        offsets, sizes = zip(*places, strict=True)
        return self.nvcomp.as_arrays(area, list(offsets), list(sizes), self.stream.ptr)

    def decompress(self, codec: Any, coded: Any, outs: list[Array]) -> None:
        """Decode a batch into `outs`; waits. ValueError unless each one is filled exactly."""
        out = self.nvcomp.as_arrays(outs, self.stream.ptr)
        self.synchronize()  # before nvCOMP reads the streams' headers
        done = codec.decode(coded, out=out)
        self.synchronize()
        sizes = list(done.buffer_sizes)
        if sizes != [each.size for each in outs]:
            raise ValueError(f"streams of {sizes[:8]} bytes, expected {[each.size for each in outs][:8]}")

    def differ(self, pairs: list[tuple[Array, Array]]) -> bool:
        """Whether any two arrays of bytes, of equal length, are not equal. Waits once for all of them."""
        kernel = self.cupy.ElementwiseKernel("T a, T b", "raw uint32 found", "if (a != b) found[0] = 1", "differ")
        found = self.cupy.zeros(1, self.cupy.uint32)
        for one, other in pairs:
            whole = one.size // 8 * 8
            if whole:
                kernel(one[:whole].view(self.cupy.uint64), other[:whole].view(self.cupy.uint64), found)
            if whole < one.size:
                kernel(one[whole:], other[whole:], found)
        self.synchronize()
        return bool(found[0])


def address(view: memoryview) -> int:
    """Where a buffer begins."""
    return int(np.frombuffer(view, np.uint8).ctypes.data)
