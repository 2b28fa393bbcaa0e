"""A double of what Poorwill uses of CuPy and nvCOMP, in host memory, that records every call.

It is as strict as the real ones and stricter where they are merely undefined: memory is finite, pointers must be
aligned, a codec belongs to one thread and one stream, and a copy to the host happens when its stream is waited for and
not before, so that whoever reads too early reads what was there. tests/unit/codecs/test_gpu_libraries.py holds the
names and arguments that it has against those of the real packages.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard

from poorwill.codecs.gpu.libraries import Libraries
from poorwill.codecs.planes import Layout, Planes

ALIGNMENT = 16
CODEC_OPTIONS = frozenset({
    "algorithm", "device_id", "cuda_stream", "uncomp_chunk_size", "bitstream_kind", "checksum_policy", "data_type",
    "states_per_lane", "max_sub_chunk_count", "histogram_reduction_log2",
})  # fmt: skip
ITEM_BYTES = {"|u1": 1, "|i1": 1, "|f1": 1, "<f2": 2, "<f4": 4}
_LAYOUTS = {1: Layout(1, False, 1), 2: Layout(2, True, 0b10), 4: Layout(4, True, 0b1000)}
_MARK = b"fake"


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class BitstreamKind(enum.Enum):
    NVCOMP_NATIVE = 0
    RAW = 1


class ChecksumPolicy(enum.Enum):
    NO_COMPUTE_NO_VERIFY = 0
    COMPUTE_AND_VERIFY = 1


@dataclass(frozen=True)
class _Pointer:
    ptr: int


class DeviceArray(np.ndarray):  # type: ignore[type-arg]
    """Memory of the device. Slices and views of it are too."""

    @property
    def data(self) -> _Pointer:  # type: ignore[override]
        return _Pointer(self.__array_interface__["data"][0])


@dataclass
class FakeCuda:
    """`count` devices with `memory_bytes` each. `trouble(call)` is asked before each call and may raise.

    miscodes: every coded stream has a wrong byte. without: an algorithm that nvCOMP does not have.
    """

    count: int = 1
    memory_bytes: int = 4 << 30
    capability: tuple[int, int] = (9, 0)
    version: str = "6.0.0"
    trouble: Callable[[str], None] = lambda call: None
    miscodes: bool = False
    without: str = ""
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    """(what, stream, bytes)"""
    used_bytes: int = 0
    registered: set[tuple[int, int]] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    """Streams with work that nobody has waited for: where nvCOMP would wait, and stop all threads of the process."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.device = threading.local()
        self.streams: dict[int, Stream] = {}

    def note(self, what: str, stream: int = 0, size: int = 0) -> None:
        self.trouble(what)
        with self.lock:
            self.calls.append((what, stream, size))

    def libraries(self) -> Libraries:
        return Libraries(_cupy(self), _nvcomp(self))

    def empty(self, size: int, dtype: Any) -> DeviceArray:
        self.trouble("empty")
        with self.lock:
            if self.used_bytes + size > self.memory_bytes:
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
            self.used_bytes += size
        whole = np.frombuffer(mmap.mmap(-1, size + 256), np.uint8)  # no memory of the host's for who counts that
        whole[: 1 << 20] = 0xEE
        weakref.finalize(whole, self._released, size)
        start = -whole.ctypes.data % 256
        return whole[start : start + size].view(DeviceArray).view(dtype)

    def _released(self, size: int) -> None:
        with self.lock:
            self.used_bytes -= size

    def copy(self, target: int, source: int, size: int, direction: int, stream: int) -> None:
        if direction == 1:
            self.note("copy in", stream, size)
            ctypes.memmove(target, source, size)
        else:
            self.note("copy out", stream, size)
            self.busy.add(stream)
            self.streams[stream].later.append(lambda: ctypes.memmove(target, source, size))

    def unregister(self, start: int) -> None:
        self.registered = {each for each in self.registered if each[0] != start}

    def register(self, start: int, size: int, flags: int) -> None:
        self.note("register", 0, size)
        self.registered.add((start, size))


def FakeLibraries() -> Libraries:
    """Of a machine with one device."""
    return FakeCuda().libraries()


class Stream:
    _numbers = iter(range(1, 1 << 30))

    def __init__(self, cuda: FakeCuda, non_blocking: bool = False) -> None:
        self._cuda, self.ptr, self.later = cuda, next(Stream._numbers), list[Callable[[], object]]()
        assert non_blocking, "the default stream would wait for all the others"
        assert hasattr(cuda.device, "number"), "no device was chosen in this thread"
        cuda.streams[self.ptr] = self

    def synchronize(self) -> None:
        self._cuda.note("synchronize", self.ptr)
        for step in self.later:
            step()
        self.later.clear()
        self._cuda.busy.discard(self.ptr)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Event:
    """What was begun on the stream when it was recorded is done when it is waited for."""

    def __init__(self, cuda: FakeCuda, block: bool = False, disable_timing: bool = False) -> None:
        self._cuda, self._stream = cuda, Stream.__new__(Stream)
        assert block, "a wait that is not asleep takes a core"

    def record(self, stream: Stream) -> None:
        self._stream = stream

    def synchronize(self) -> None:
        self._stream.synchronize()


class _Device:
    def __init__(self, cuda: FakeCuda, number: int) -> None:
        self._cuda, self._number = cuda, number

    def use(self) -> None:
        self._cuda.note("use")
        self._cuda.device.number = self._number


def _cupy(cuda: FakeCuda) -> Any:
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: cuda.count,
        getDeviceProperties=lambda device: {
            "name": f"Fake {device}".encode(), "major": cuda.capability[0], "minor": cuda.capability[1],
        },
        memGetInfo=lambda: (cuda.memory_bytes - cuda.used_bytes, cuda.memory_bytes),
        memcpyAsync=cuda.copy,
        hostRegister=cuda.register,
        hostUnregister=cuda.unregister,
        driverGetVersion=lambda: 12090,
        runtimeGetVersion=lambda: 12090,
    )  # fmt: skip
    return types.SimpleNamespace(
        __version__="14.2.0",
        uint8=np.uint8, uint16=np.uint16, uint32=np.uint32, uint64=np.uint64, float16=np.float16, float32=np.float32,
        empty=cuda.empty,
        zeros=lambda count, dtype: np.zeros(count, dtype).view(DeviceArray),
        ElementwiseKernel=lambda ins, outs, code, name: _KERNELS[ins, outs, code],
        get_default_memory_pool=lambda: types.SimpleNamespace(free_all_blocks=lambda: None),
        cuda=types.SimpleNamespace(
            runtime=runtime,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            Device=lambda number: _Device(cuda, number),
            Stream=lambda non_blocking=False: Stream(cuda, non_blocking),
            Event=lambda **options: Event(cuda, **options),
        ),
    )  # fmt: skip


def _differ(one: DeviceArray, other: DeviceArray, found: DeviceArray) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    if (np.asarray(one) != np.asarray(other)).any():
        found[0] = 1


_KERNELS = {("T a, T b", "raw uint32 found", "if (a != b) found[0] = 1"): _differ}
"""What our kernels do, by their source."""


class Array:
    def __init__(self, data: DeviceArray, stream: int) -> None:
        assert isinstance(data, DeviceArray), "not in the device's memory"
        if data.data.ptr % ALIGNMENT or not data.size:
            raise RuntimeError("invalid value: unaligned or empty buffer")
        self.bytes = data.view(np.uint8)
        self.item_size = data.itemsize


class BatchArray:
    def __init__(self, arrays: list[Array], made_by: tuple[FakeCuda, int] | None = None) -> None:
        if not arrays:
            raise ValueError("a batch must not be empty")
        self.arrays, self._made_by = arrays, made_by

    @property
    def buffer_sizes(self) -> list[int]:
        if self._made_by is not None:
            cuda, stream = self._made_by
            assert stream not in cuda.busy, "nvCOMP would wait here, with the interpreter's lock"
        return [array.bytes.size for array in self.arrays]

    def __len__(self) -> int:
        return len(self.arrays)


def _as_arrays(first: Any, *rest: Any) -> BatchArray:
    if isinstance(first, list):
        return BatchArray([Array(each, *rest) for each in first])
    offsets, sizes, stream = rest
    whole = first.view(np.uint8)
    if any(at + size > whole.size for at, size in zip(offsets, sizes, strict=True)):
        raise ValueError("an entry ends behind the buffer")
    arrays = [Array(whole[at : at + size], stream) for at, size in zip(offsets, sizes, strict=True)]
    for array in arrays:
        array.item_size = first.itemsize
    return BatchArray(arrays)


class Codec:
    """ANS that is no ANS: what a codec of the CPU makes of the same elements, behind a mark with their type."""

    def __init__(self, cuda: FakeCuda, **options: Any) -> None:
        if unknown := options.keys() - CODEC_OPTIONS:
            raise TypeError(f"no such options: {sorted(unknown)}")
        self._cuda, self._thread = cuda, threading.get_ident()
        self._stream = options["cuda_stream"]
        self._raw = options.get("bitstream_kind") is BitstreamKind.RAW
        self._algorithm = options.get("algorithm", "")
        self._type = options.get("data_type", "|u1")
        self._planes = Planes()
        assert options["device_id"] == cuda.device.number and self._type in ITEM_BYTES

    def get_max_comp_buffer_size(self, source: Array) -> int:
        return int(source.bytes.size * 9 // 8 + 4096)

    def encode(self, source: BatchArray, out: BatchArray) -> BatchArray:
        self._called("encode", source)
        if self._algorithm == self._cuda.without:
            raise RuntimeError("not supported: code=14")
        done = []
        for array, target in zip(source.arrays, out.arrays, strict=True):
            assert array.item_size == ITEM_BYTES[self._type] and array.bytes.size % array.item_size == 0
            coded = self._coded(array.bytes.tobytes())
            if len(coded) > target.bytes.size:
                raise ValueError("the output buffer is too small")
            target.bytes[: len(coded)] = np.frombuffer(coded, np.uint8)
            if self._cuda.miscodes:
                target.bytes[len(coded) - 1] ^= 1
            done.append(Array(target.bytes[: len(coded)], self._stream))
        self._cuda.busy.add(self._stream)
        return BatchArray(done, (self._cuda, self._stream))

    def compression_config(self, uncompressed_sizes: list[int]) -> list[int]:
        return uncompressed_sizes

    def decompression_config(self, compression_config: list[int]) -> list[int]:
        return compression_config

    def decode(self, srcs: BatchArray, out: BatchArray, decompression_config: list[int] | None = None) -> BatchArray:
        source = srcs
        assert decompression_config in (None, [array.bytes.size for array in out.arrays])
        self._called("decode", source)
        if not self._raw:
            self._check_types(source)
        done = []
        for array, target in zip(source.arrays, out.arrays, strict=True):
            data = self._decoded(array.bytes.tobytes(), target.bytes.size)
            if len(data) > target.bytes.size:
                raise ValueError("the output buffer is too small")
            target.bytes[: len(data)] = np.frombuffer(data, np.uint8)
            done.append(Array(target.bytes[: len(data)], self._stream) if data else array)
        self._cuda.busy.add(self._stream)
        return BatchArray(done, (self._cuda, self._stream))

    def _check_types(self, source: BatchArray) -> None:
        """A codec of no algorithm asks the first stream of a batch, and takes all others for the same."""
        expected = ITEM_BYTES[self._type] if self._algorithm else _width_of(source.arrays[0])
        if any(_width_of(array) != expected for array in source.arrays):
            raise RuntimeError("cannot decompress: code=11")

    def _called(self, what: str, source: BatchArray) -> None:
        assert threading.get_ident() == self._thread, "a codec belongs to one thread"
        self._cuda.note(what, self._stream, sum(source.buffer_sizes))

    def _coded(self, data: bytes) -> bytes:
        if self._raw:
            return zstandard.ZstdCompressor(level=1).compress(data)
        out = bytearray(len(data))
        self._planes.layout = _LAYOUTS[ITEM_BYTES[self._type]]
        size = self._planes.encode(memoryview(data), memoryview(out))
        head = _MARK + bytes([ITEM_BYTES[self._type], size is not None]) + len(data).to_bytes(4, "little")
        return head + (data if size is None else bytes(out[:size]))

    def _decoded(self, data: bytes, room: int) -> bytes:
        if self._raw:
            return zstandard.ZstdDecompressor().decompress(data)
        if data[:4] != _MARK or len(data) < 10 or int.from_bytes(data[6:10], "little") > room:
            raise RuntimeError("cannot decompress: code=13")
        size = int.from_bytes(data[6:10], "little")
        if not data[5]:
            return data[10:][:size]
        out = bytearray(size)
        try:
            self._planes.decode(memoryview(data[10:]), memoryview(out))
        except Exception:
            raise RuntimeError("cannot decompress: code=13") from None
        return bytes(out)


def _width_of(array: Array) -> int:
    head = array.bytes[:5].tobytes()
    return head[4] if head[:4] == _MARK and len(head) == 5 else 0


def _nvcomp(cuda: FakeCuda) -> Any:
    return types.SimpleNamespace(
        __version__=cuda.version,
        BitstreamKind=BitstreamKind,
        ChecksumPolicy=ChecksumPolicy,
        Codec=lambda **options: Codec(cuda, **options),
        as_array=Array,
        as_arrays=_as_arrays,
    )
