"""Who codes, the GPU or the CPU: measured on the machine when the first chunk is to be coded.

The engine reads, hashes, codes and hashes again with all its threads. Where the GPU codes, the threads only read and
hash, and the slower of the two sets the pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import blake3
import numpy as np

from poorwill.codecs.base import Codec
from poorwill.codecs.planes import Planes
from poorwill.snapshot import limits

if TYPE_CHECKING:
    from poorwill.codecs.gpu.gpu_pool import Gpus

SAMPLE_BYTES = limits.CHUNK_BYTES
SAMPLING_S = 0.4
"""Of the GPU; a quarter of it for each thing that one thread of the CPU does."""
STREAMS = 6
"""Threads that hand chunks to the GPU while it is measured: enough to fill its lanes."""
ENOUGH_MB_S = 5000
"""Faster than a network of 40 Gbit/s: beyond that the workspace's own programs need the CPU more."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`by` is "gpu" or "cpu"; `codec` is what weights are coded with; rates in MB of raw bytes a second."""

    by: str
    codec: str
    reason: str
    rates_mb_s: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def weights(size: int = SAMPLE_BYTES) -> memoryview:
    """Bytes like those of trained layers in bf16, always the same."""
    values = (np.random.default_rng(1).standard_normal(1 << 18) * 0.02).astype("<f4").view("<u4") >> 16
    return memoryview(np.resize(values.astype("<u2"), size // 2).tobytes())


def decide(rates_mb_s: dict[str, int], threads: int) -> tuple[str, str]:
    """ "gpu" or "cpu", and why. Rates: `hash` and `cpu` of one thread, `gpu` of all GPUs, from host to host."""
    hashing = 1 / max(rates_mb_s["hash"], 1) * 1.67  # the raw bytes, and two thirds of them coded
    alone = round(threads / (hashing + 1 / max(rates_mb_s["cpu"], 1)))
    beside = min(round(threads / hashing), rates_mb_s["gpu"])
    figures = f"the engine reaches {beside} MB/s with the GPU and {alone} MB/s without, on {threads} threads"
    if beside >= alone:
        return "gpu", figures
    if beside >= ENOUGH_MB_S:
        return "gpu", f"{figures}; {ENOUGH_MB_S} MB/s fill any link, and the CPU stays free"
    return "cpu", figures


def measure(codec: Codec, gpus: Gpus) -> dict[str, int]:
    """Rates of hashing and CPU coding by one thread, and of `codec`, which a GPU runs, by many. 0: it does not code."""
    cpu, raw = Planes(), gpus.pin(memoryview(bytearray(weights())))
    outs = [gpus.pin(memoryview(bytearray(SAMPLE_BYTES))) for _ in range(STREAMS)]
    rates = {
        "hash": _rate(lambda: SAMPLE_BYTES if blake3.blake3(raw).digest() else 0),
        "cpu": _rate(lambda: SAMPLE_BYTES if cpu.encode(raw, outs[0]) else 0),
        "gpu": _rate_of_many(codec, raw, outs),
    }
    # Not in a `finally`: after a GPU that hangs they have to stay pinned.
    for buffer in (raw, *outs):
        gpus.unpin(buffer)
    return rates


def _rate(step: Callable[[], int]) -> int:
    done, began = 0, time.perf_counter()
    while not done or time.perf_counter() - began < SAMPLING_S / 4:
        size = step()
        if not size:
            return 0
        done += size
    return round(done / (time.perf_counter() - began) / 1e6)


def _rate_of_many(codec: Codec, raw: memoryview, outs: list[memoryview]) -> int:
    _many(codec, raw, outs, 0.0)  # opens the device's libraries in every lane, and compiles kernels
    began = time.perf_counter()
    done = _many(codec, raw, outs, SAMPLING_S)
    return round(done * len(raw) / (time.perf_counter() - began) / 1e6)


def _many(codec: Codec, raw: memoryview, outs: list[memoryview], seconds: float) -> int:
    """How often `raw` was coded by as many threads as there are `outs`, each at least once; 0 if it ever failed."""
    began = time.perf_counter()

    def work(out: memoryview) -> int:
        done = 0
        while not done or time.perf_counter() - began < seconds:
            if not codec.encode(raw, out):
                return 0
            done += 1
        return done

    with ThreadPoolExecutor(len(outs)) as threads:
        counts = list(threads.map(work, outs))
    return sum(counts) if all(counts) else 0
