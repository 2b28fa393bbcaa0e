"""From host memory to host memory: the engine's way through the GPU, beside what its link can carry."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import machine
from bench.chunks import chunk
from bench.gpu.device import NewTimer, Sizes, affordable, timed
from bench.gpu.report import GpuReport, Row, gb_s
from bench.measure import Spread
from poorwill.codecs.base import Codec
from poorwill.codecs.gpu import memory, nvcomp_form
from poorwill.codecs.gpu.gpu import LANES, Gpu
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.lanes import Lane, address
from poorwill.codecs.gpu.libraries import Libraries, pin
from poorwill.codecs.gpu.nvcomp import NvcompAns, PlanesOnGpu
from poorwill.codecs.gpu.queue import Request
from poorwill.codecs.planes import Layout, Planes
from poorwill.engine.transfer.buffers import new_buffer

SEEDS = 4
THREADS = (8, 16, 32, 64)
"""The engine has twice as many as cores."""
MEMORY_SHARE = 0.5
FORM = nvcomp_form.form_of(Layout(2, True, 0b10))


@dataclass(slots=True)
class Buffers:
    """A batch of bf16 weights in pinned host memory, in items, and as much room for what they are coded to and back.

    Pinned memory is kept until the process ends, as the engine keeps it.
    """

    raw: list[memoryview]
    out: list[memoryview]
    back: list[memoryview]
    whole: dict[str, memoryview]

    @classmethod
    def new(cls, libraries: Libraries, report: GpuReport, sizes: Sizes) -> Buffers:
        """As many items as a third of half of the free memory holds, and a batch has."""
        room = int(machine.memory_bytes("MemAvailable") * MEMORY_SHARE) // 3
        count = max(1, min(sizes.batch_bytes, room) // sizes.item_bytes)
        if count * sizes.item_bytes < sizes.batch_bytes:
            report.note(f"batches in host memory are {count * sizes.item_bytes >> 20} MiB: what is free allows no more")
        whole = {name: _pinned(libraries, report, count * sizes.item_bytes) for name in ("raw", "out", "back")}
        items = [chunk("bf16", sizes.item_bytes, seed) for seed in range(SEEDS)]
        cut = {
            name: [view[at : at + sizes.item_bytes] for at in range(0, len(view), sizes.item_bytes)]
            for name, view in whole.items()
        }
        for number, item in enumerate(cut["raw"]):
            item[:] = items[number % SEEDS]
        for view in (whole["out"], whole["back"]):
            view[::4096] = bytes(len(view[::4096]))  # touched, so that no page is made while the clock runs
        return cls(**cut, whole=whole)

    @property
    def size(self) -> int:
        return len(self.whole["raw"])


def _pinned(libraries: Libraries, report: GpuReport, size: int) -> memoryview:
    buffer = new_buffer(size)
    try:
        pin(libraries, address(buffer), size)
    except Exception as error:  # CuPy's own, or the system's: a container's limit on locked memory, for example
        report.note(f"{size >> 20} MiB of host memory are NOT pinned ({error}): copies are slower than they could be")
    return buffer


def copies(lane: Lane, new_timer: NewTimer, report: GpuReport, buffers: Buffers, runs: int) -> None:
    """What pinned copies reach, in each direction alone and in both at once."""
    timer, size = new_timer(lane), min(buffers.size, affordable(lane, Sizes(), 4))
    there, back = buffers.whole["raw"][:size], buffers.whole["out"][:size]
    with lane:
        here = lane.cupy.empty(size, lane.cupy.uint8)
        into = timed(timer, runs, lambda: here, lambda target: lane.copy_in(target, there))
        out = timed(timer, runs, lambda: here, lambda source: lane.copy_out(back, source))
        lane.synchronize()
    report.add("copies", {"direction": "to the device", "copy_gb_s": gb_s(size, into)})
    report.add("copies", {"direction": "to the host", "copy_gb_s": gb_s(size, out)})
    other, seconds = Lane(Libraries(lane.cupy, lane.nvcomp), lane.device), []
    with other:
        elsewhere = other.cupy.empty(size, other.cupy.uint8)
    for _ in range(runs + 1):
        began_s = time.perf_counter()
        lane.copy_in(here, there)
        other.copy_out(back, elsewhere)
        lane.synchronize()
        other.synchronize()
        seconds.append(time.perf_counter() - began_s)
    report.add("copies", {"direction": "both at once, each", "copy_gb_s": gb_s(size, Spread.of(seconds[1:]))})
    other.free()
    lane.free()


def in_batches(libraries: Libraries, device: int, report: GpuReport, buffers: Buffers, sizes: Sizes) -> None:
    """One lane and three, which get everything at once and take it in batches of 1 GiB, or as large as is possible."""
    for lanes in (1, LANES):
        what = f"{lanes} lane{'s' * (lanes > 1)}, batches of 1 GiB"
        row = report.attempt(what, partial(_lanes, libraries, device, report, buffers, sizes, lanes))
        if row:
            report.add("host", {"way": what.replace("1 GiB", f"{row.pop('batch_mib')} MiB"), **row})


def _lanes(libraries: Libraries, device: int, report: GpuReport, buffers: Buffers, sizes: Sizes, lanes: int) -> Row:
    probe = Lane(libraries, device)
    batch_bytes = min(affordable(probe, sizes, memory.BUFFERS * lanes + 1), buffers.size)
    coder = Gpu(libraries, device, lanes, batch_bytes)
    try:
        times = max(1, sizes.total_bytes // buffers.size)
        coded = _all_at_once(coder, buffers, 1)  # the first also compiles kernels
        compress = [_seconds(lambda: _all_at_once(coder, buffers, times)) for _ in range(sizes.runs // 3 or 1)]
        _decode_all(coder, buffers, coded, 1)
        decompress = [_seconds(lambda: _decode_all(coder, buffers, coded, times)) for _ in range(sizes.runs // 3 or 1)]
    finally:
        coder.close()
    _check(buffers)
    total = times * buffers.size
    return {"batch_mib": batch_bytes >> 20, "compress_gb_s": gb_s(total, Spread.of(compress)),
            "decompress_gb_s": gb_s(total, Spread.of(decompress)), "ratio": sum(coded) / buffers.size}  # fmt: skip


def _seconds(step: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    step()
    return time.perf_counter() - began_s


def _all_at_once(coder: Gpu, buffers: Buffers, times: int) -> list[int]:
    """Code the batch `times` times; coded bytes of each item. Two passes may write one item's room: the same bytes."""
    pairs = list(zip(buffers.raw, buffers.out, strict=True)) * times
    requests = [Request("ans", raw, out, FORM) for raw, out in pairs]
    for request in requests:
        coder.queue.put(request)
    sizes = [request.wait() for request in requests]
    if not all(sizes):
        raise RuntimeError(f"{sizes.count(None)} items of {len(sizes)} were not coded")
    return [size or 0 for size in sizes[: len(buffers.raw)]]


def _decode_all(coder: Gpu, buffers: Buffers, coded: list[int], times: int) -> None:
    items = list(zip(buffers.out, coded, buffers.back, strict=True)) * times
    requests = [Request("ans-decode", out[:size], back, FORM) for out, size, back in items]
    for request in requests:
        coder.queue.put(request)
    for request in requests:
        request.wait()


def _check(buffers: Buffers) -> None:
    if buffers.whole["back"] != buffers.whole["raw"]:
        raise RuntimeError("what came back differs from what was coded")


def by_threads(gpus: Gpus, report: GpuReport, buffers: Buffers, sizes: Sizes) -> None:
    """As the engine's codec threads hand in chunks: each one, and waits for it."""
    for count in THREADS:
        row = report.attempt(f"{count} threads", partial(_threads, lambda: NvcompAns(gpus), count, buffers, sizes))
        if row:
            report.add("host", {"way": f"{count} threads, as the engine's", **row})


def portable(gpus: Gpus, report: GpuReport, buffers: Buffers, sizes: Sizes) -> None:
    """Planes with the GPU's zstd, and those of all cores; both are decoded by the CPU."""
    cores = machine.cores()
    ways: dict[str, tuple[Callable[[], Codec], int]] = {
        "GPU": (lambda: PlanesOnGpu(gpus), max(2 * cores, THREADS[0])), "CPU": (Planes, cores),
    }  # fmt: skip
    for by, (new_codec, count) in ways.items():
        row = report.attempt(f"portable by the {by}", partial(_threads, new_codec, count, buffers, sizes))
        if row:
            report.add("portable", {"by": by, "threads": count, **row})


def _threads(new_codec: Callable[[], Any], count: int, buffers: Buffers, sizes: Sizes) -> Row:
    items, times = len(buffers.raw), max(1, sizes.total_bytes // buffers.size)
    coded = [0] * items
    # A codec of the CPU may use the room that it writes to as scratch: one thread at a time for each item.
    locks = [threading.Lock() for _ in range(items)]

    def encode(codec: Codec, number: int) -> None:
        with locks[number]:
            coded[number] = codec.encode(buffers.raw[number], buffers.out[number]) or 0

    def decode(codec: Codec, number: int) -> None:
        with locks[number]:
            codec.decode(buffers.out[number][: coded[number]], buffers.back[number])

    _share(new_codec, count, encode, items)  # the first compiles kernels
    shared = [_share(new_codec, count, encode, times * items, items) for _ in range(sizes.runs // 3 or 1)]
    if not all(coded):
        raise RuntimeError(f"{coded.count(0)} items of {items} were not coded")
    back = [_share(new_codec, count, decode, times * items, items) for _ in range(sizes.runs // 3 or 1)]
    _check(buffers)
    total = times * buffers.size
    return {"compress_gb_s": gb_s(total, Spread.of(shared)), "decompress_gb_s": gb_s(total, Spread.of(back)),
            "ratio": sum(coded) / buffers.size}  # fmt: skip


def _share(
    new_codec: Callable[[], Any], count: int, step: Callable[[Codec, int], None], total: int, items: int = 0
) -> float:
    """Seconds that `count` threads, each with its own codec, take for step(codec, number) of `total` numbers, modulo
    `items`. Raises what the first that failed did."""
    numbers, failed = itertools.count(), list[BaseException]()

    def work() -> None:
        codec = new_codec()
        try:
            while not failed and (number := next(numbers)) < total:
                step(codec, number % (items or total))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - began_s
