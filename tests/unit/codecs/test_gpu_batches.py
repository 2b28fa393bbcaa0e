"""Chunks wait for a GPU and are taken in batches; a GPU that fails loses none of them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.chunks import chunk
from poorwill.codecs.chooser import Chooser
from poorwill.codecs.gpu import memory
from poorwill.codecs.gpu.gpu import OUT_OF_MEMORY_MAX, Gpu
from poorwill.codecs.gpu.gpu_pool import Gpus, open_gpus
from poorwill.codecs.gpu.layout import stacked
from poorwill.codecs.gpu.nvcomp import NvcompAns, PlanesOnGpu
from poorwill.codecs.gpu.queue import BatchQueue, Request, planned
from poorwill.codecs.planes import Layout, Planes
from poorwill.errors import Corrupt, DeviceFailed, EngineLost, OutOfMemory, Unsupported
from tests.support.doubles.fake_cuda import CUDARuntimeError, FakeCuda, OutOfMemoryError

WEIGHTS = chunk("bf16", 1 << 20)


def request(size: int = 8, kind: str = "ans", alone: bool = False) -> Request:
    return Request(kind, memoryview(bytes(size)), memoryview(bytearray(size)), None, alone=alone)


def room(size: int = len(WEIGHTS)) -> memoryview:
    return memoryview(bytearray(size))


requests = st.builds(request, st.integers(1, 40), st.sampled_from(["ans", "ans-decode"]), st.booleans())


@given(st.lists(requests, min_size=1, max_size=12), st.integers(1, 100))
def test_batches(waiting: list[Request], bytes_max: int) -> None:
    """Everything is taken once and in order within its kind; a batch is of one kind and within its bound, or one chunk;
    what asks to be alone is."""
    left, taken = deque(waiting), list[Request]()
    while left:
        batch = planned(left, bytes_max)
        assert batch[0] is left[0] and len({r.kind for r in batch}) == 1
        assert len(batch) == 1 or sum(len(r.source) for r in batch) <= bytes_max
        assert len(batch) == 1 or not any(r.alone for r in batch)
        for each in batch:
            left.remove(each)
        taken += batch
    for kind in ("ans", "ans-decode"):
        ours = [r for r in waiting if r.kind == kind and not r.alone]
        fits = [r for r in taken if r.kind == kind and not r.alone]
        assert len(fits) == len(ours)
    assert len(taken) == len(waiting)


@given(st.lists(st.integers(1, 5000), max_size=20))
def test_pieces_are_stacked_without_overlap(sizes: list[int]) -> None:
    """Aligned, one behind the other, with less than an alignment of waste each."""
    offsets, end = stacked(sizes)
    at = 0
    for offset, size in zip(offsets, sizes, strict=True):
        assert offset % 256 == 0 and at <= offset < at + 256
        at = offset + size
    assert at <= end < at + 256


def test_a_closed_queue_fails_every_request() -> None:
    """Waiting and later requests get the reason; `take` returns nothing."""
    queue, waits = BatchQueue(), request()
    queue.put(waits)
    queue.close(DeviceFailed("it fell from the bus"))
    with pytest.raises(DeviceFailed, match="bus"):
        waits.wait(5)
    with pytest.raises(DeviceFailed, match="bus"):
        queue.put(request())
    assert queue.take(100) == [] and queue.bytes == 0


def test_a_gpu_that_hangs() -> None:
    """Its buffers are not used again, as it may still write to them: the process has to be replaced."""
    with pytest.raises(EngineLost, match="has not answered"):
        request().wait(0.01)


def encode_many(gpus: Gpus, count: int = 12, threads: int = 6) -> list[int]:
    """Through as many threads, each with its codec; what came out decodes on the CPU or the GPU to what went in."""

    def work(number: int) -> int:
        out, chooser = room(), Chooser("auto", NvcompAns(gpus))
        codec, size = chooser.encode(WEIGHTS, out)
        back = room()
        reader: Any = NvcompAns(gpus) if codec == 4 else Planes()
        reader.decode(out[:size], back)
        assert back == WEIGHTS
        return codec

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def test_chunks_gather_while_the_gpu_is_busy() -> None:
    """While one lane is busy the others' chunks become one batch; nothing is copied out before it is coded."""
    held, entered = threading.Event(), threading.Event()

    def trouble(call: str) -> None:
        if call == "encode" and not entered.is_set():
            entered.set()
            assert held.wait(30)

    cuda = FakeCuda(trouble=trouble)
    gpus = open_gpus(cuda.libraries(), lanes=1)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(NvcompAns(gpus).encode, WEIGHTS, room())
        assert entered.wait(30)
        others = [pool.submit(NvcompAns(gpus).encode, WEIGHTS, room()) for _ in range(4)]
        (one,) = gpus._each
        while one.queue.bytes < 4 * len(WEIGHTS):
            assert not any(other.done() for other in others)
        held.set()
        assert len({f.result(30) for f in (first, *others)}) == 1
    coded = [size for what, _, size in cuda.calls if what == "encode"]
    assert coded == [len(WEIGHTS), 4 * len(WEIGHTS)]
    gpus.close()


def test_lanes_have_streams_of_their_own() -> None:
    """Several batches are on the way at once, each on one stream from its copy in to its copy out."""
    together = threading.Barrier(3, timeout=30)
    cuda = FakeCuda(trouble=lambda call: together.wait() and None if call == "encode" else None)
    one = Gpu(cuda.libraries(), 0, lanes=3, batch_bytes=len(WEIGHTS))
    gpus = Gpus(cuda.libraries(), [one])
    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(NvcompAns(gpus).encode, WEIGHTS, room()) for _ in range(3)]
        assert all(each.result(30) for each in work)
    by_stream: dict[int, list[str]] = {}
    for what, stream, _ in cuda.calls:
        by_stream.setdefault(stream, []).append(what)
    del by_stream[0]
    assert len(by_stream) == 3
    for calls in by_stream.values():
        assert [c for c in calls if c != "synchronize"] == ["copy in", "encode", "copy out", "decode"]
        assert calls[-1] == "synchronize"
    gpus.close()


def test_two_gpus_share_the_work() -> None:
    """Both code; when one is lost the other goes on, with a line in the log."""
    cuda = FakeCuda(count=2)
    gpus = open_gpus(cuda.libraries())
    first, second = gpus._each
    encode_many(gpus)
    assert gpus.describe() == "Fake 0, Fake 1" and gpus.fell_back == 0
    first._lose(DeviceFailed("gone"))
    assert set(encode_many(gpus)) == {4} and gpus.usable
    second._lose(DeviceFailed("gone too"))
    assert not gpus.usable
    with pytest.raises(EngineLost, match="no GPU of this engine works any more: gone"):
        gpus.decode(room(100), room(), None)
    gpus.close()


@pytest.mark.parametrize("call", ["copy in", "encode", "decode", "copy out", "synchronize", "use", "empty"])
def test_a_lost_device_costs_no_chunk(call: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it fails, the CPU codes that chunk and all later ones, with one warning."""

    def trouble(now: str) -> None:
        if now == call:
            raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    gpus = open_gpus(FakeCuda(trouble=trouble).libraries())
    with caplog.at_level(logging.WARNING):
        assert set(encode_many(gpus)) == {2}
    assert len(caplog.records) == 1 and "the CPU codes" in caplog.text and gpus.fell_back >= 1
    assert not gpus.usable
    gpus.close()


def test_a_device_that_miscodes_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    """Bits that flip are noticed on the device, before a byte of it is stored."""
    gpus = open_gpus(FakeCuda(miscodes=True).libraries())
    with caplog.at_level(logging.WARNING):
        assert set(encode_many(gpus)) == {2}
    assert not gpus.usable and len(caplog.records) == 1
    gpus.close()


def test_out_of_memory_moves_one_chunk_to_the_cpu() -> None:
    """For a while another program takes all memory: those chunks are coded by the CPU, later ones by the GPU again."""
    short = threading.Event()

    def trouble(call: str) -> None:
        if call == "encode" and short.is_set():
            raise OutOfMemoryError("Out of memory allocating 1,000 bytes")

    gpus = open_gpus(FakeCuda(trouble=trouble).libraries())
    assert encode_many(gpus, 2, 1) == [4, 4]
    short.set()
    assert encode_many(gpus, 2, 1) == [2, 2]
    short.clear()
    assert encode_many(gpus, 2, 1) == [4, 4] and gpus.fell_back == 2
    short.set()
    encode_many(gpus, OUT_OF_MEMORY_MAX, 1)
    assert not gpus.usable, "not tried for ever"
    gpus.close()


def test_device_memory_is_reused_and_freed() -> None:
    """Buffers are reused, and do not grow with the amount that is coded; after `close` nothing is left."""
    cuda = FakeCuda()
    gpus = open_gpus(cuda.libraries())
    encode_many(gpus, 30)
    used = cuda.used_bytes
    encode_many(gpus, 60)
    assert 0 < cuda.used_bytes <= max(used, 3 * 5 * 6 * 2 * len(WEIGHTS))
    gpus.close()
    assert cuda.used_bytes == 0


def test_a_device_without_free_memory() -> None:
    """Too little memory from the start: the GPU is not used, and the CPU codes."""
    gpus = open_gpus(FakeCuda(memory_bytes=memory.BATCH_BYTES_MIN).libraries())
    assert set(encode_many(gpus, 3)) == {2} and "too little" in gpus.warning
    gpus.close()


def test_one_damaged_chunk_in_a_batch() -> None:
    """Only that chunk is corrupt; the others of its batch are decoded."""
    held, entered = threading.Event(), threading.Event()
    cuda = FakeCuda()
    one = Gpu(cuda.libraries(), 0, lanes=1)
    gpus = Gpus(cuda.libraries(), [one])
    out = room()
    size = NvcompAns(gpus).encode(WEIGHTS, out)
    assert size is not None
    sound, damaged = bytes(out[:size]), bytearray(out[:size])
    damaged[16:20] = bytes(4)

    def trouble(call: str) -> None:
        entered.set()
        assert held.wait(30)

    cuda.trouble = trouble

    def read(stored: bytes) -> bytes:
        back = room()
        NvcompAns(gpus).decode(memoryview(stored), back)
        return bytes(back)

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(read, sound)]
        assert entered.wait(30)
        work += [pool.submit(read, bytes(each)) for each in (sound, damaged, sound, sound)]
        while one.queue.bytes < 4 * len(sound):
            assert not any(each.done() for each in work)
        held.set()
        results = [each.exception(30) or each.result() for each in work]
    assert isinstance(results.pop(2), Corrupt) and results == [bytes(WEIGHTS)] * 4
    assert gpus.usable
    gpus.close()


def test_a_batch_of_many_types() -> None:
    """Streams of every type and of planes, decoded together: each group by the codec of its own."""
    held, entered = threading.Event(), threading.Event()
    cuda = FakeCuda()
    one = Gpu(cuda.libraries(), 0, lanes=1)
    gpus = Gpus(cuda.libraries(), [one])
    coded = []
    for layout in (Layout(2, True, 0b10), Layout(4, True, 0b1000), Layout(1, False, 1), Layout(4, True, 0b1010)):
        codec, out = NvcompAns(gpus), room()
        codec.layout = layout
        size = codec.encode(WEIGHTS, out)
        assert size is not None
        coded.append(bytes(out[:size]))

    def trouble(call: str) -> None:
        entered.set()
        assert held.wait(30)

    cuda.trouble = trouble

    def read(stored: bytes) -> bool:
        back = room()
        NvcompAns(gpus).decode(memoryview(stored), back)
        return back == WEIGHTS

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(read, coded[0])]
        assert entered.wait(30)
        work += [pool.submit(read, each) for each in coded]
        while one.queue.bytes < sum(map(len, coded)):
            assert not any(each.done() for each in work)
        cuda.calls.clear()
        held.set()
        assert all(each.result(30) for each in work)
    assert [what for what, _, _ in cuda.calls].count("decode") == 4, "the first alone, then f2, f4 and u1 together"
    assert gpus.usable
    gpus.close()


def test_nvcomp_without_zstd() -> None:
    """Portable chunks are then coded by the CPU; chunks that need the GPU are still coded and decoded by it."""
    cuda = FakeCuda()
    gpus = open_gpus(cuda.libraries())
    ans, planes, out = NvcompAns(gpus), PlanesOnGpu(gpus), room()
    size = ans.encode(WEIGHTS, out)
    assert size is not None
    cuda.without = "Zstd"
    assert planes.encode(WEIGHTS, room()) is None and planes.encode(WEIGHTS, room()) is None
    assert gpus.usable and "makes no zstd frames" in gpus.warning
    back = room()
    ans.decode(out[:size], back)
    assert back == WEIGHTS
    gpus.close()


def test_decoding_short_of_memory() -> None:
    """A chunk is tried again alone, with the whole memory; only then is it an error, which names the memory."""
    cuda = FakeCuda()
    gpus = open_gpus(cuda.libraries(), lanes=1)
    out = room()
    size = NvcompAns(gpus).encode(WEIGHTS, out)
    times = iter([True, False])
    cuda.trouble = lambda call: _short() if call == "decode" and next(times, True) else None
    back = room()
    NvcompAns(gpus).decode(out[:size], back)
    assert back == WEIGHTS
    with pytest.raises(OutOfMemory, match="does not suffice"):
        NvcompAns(gpus).decode(out[:size], back)
    gpus.close()


def _short() -> None:
    raise OutOfMemoryError("Out of memory allocating 1,000 bytes")


def test_pinned_buffers_stay_alive() -> None:
    """A pinned buffer lives as long as the process; one that cannot be pinned is used unpinned."""
    cuda = FakeCuda()
    gpus = open_gpus(cuda.libraries())
    buffer = gpus.pin(room(4096))
    ((_, size),) = cuda.registered
    assert size == 4096 and any(kept is buffer for kept in gpus._pinned)
    gpus.unpin(buffer)
    assert cuda.registered == set() and gpus._pinned == []
    cuda.trouble = lambda call: _refuse() if call == "register" else None
    other = room(4096)
    assert gpus.pin(other) is other
    gpus.close()


def _refuse() -> None:
    raise CUDARuntimeError("cudaErrorMemoryAllocation")


def test_machines_that_cannot_code_on_a_gpu() -> None:
    """No device, or one that is too old: each with its reason."""
    for cuda, words in (
        (FakeCuda(count=0), "finds 0 GPUs"),
        (FakeCuda(capability=(6, 1)), "finds 1 GPUs, and none of compute capability 7.0"),
    ):
        with pytest.raises(Unsupported, match=words):
            open_gpus(cuda.libraries())
