"""The device that is measured: what it is, how much of its memory may be used, and how time on it is taken."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from bench.measure import Spread
from poorwill.codecs.gpu.lanes import Lane
from poorwill.codecs.gpu.libraries import Libraries, capability
from poorwill.engine.machine import nvidia_smi

T = TypeVar("T")
MEMORY_SHARE = 0.8
"""Of the device's free memory, at most."""
COPIES = 10
"""A batch, its planes, both of them decoded again, what they are coded to, and what nvCOMP and CuPy need meanwhile."""


class Timer(Protocol):
    """Takes the time of what is done on one lane's stream."""

    def mark(self) -> Any: ...

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two marks; waits for the second."""
        ...


class EventTimer:
    """CUDA events: the time on the device itself, from where the stream got to the first mark."""

    def __init__(self, lane: Lane) -> None:
        self._cuda, self._stream = lane.cupy.cuda, lane.stream

    def mark(self) -> Any:
        event = self._cuda.Event()
        event.record(self._stream)
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(self._cuda.get_elapsed_time(begin, end)) / 1000


NewTimer = Callable[[Lane], Timer]


def timed(timer: Timer, runs: int, prepare: Callable[[], T], step: Callable[[T], object]) -> Spread:
    """Seconds of step(prepare()), of which only `step` is timed; after one run that does not count."""
    seconds = []
    for _ in range(runs + 1):
        ready = prepare()
        begin = timer.mark()
        step(ready)
        seconds.append(timer.seconds(begin, timer.mark()))
    return Spread.of(seconds[1:])


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Bytes of raw input; `total_bytes` is what goes through a row from host to host."""

    batch_bytes: int = 1 << 30
    item_bytes: int = 8 << 20
    total_bytes: int = 16 << 30
    runs: int = 9
    workspace_bytes: int = 16_000_000_000
    profile_bytes: int = 4_000_000_000
    engine_runs: int = 3


QUICK = Sizes(
    batch_bytes=256 << 20, total_bytes=1 << 30, runs=3,
    workspace_bytes=1_000_000_000, profile_bytes=1_000_000_000, engine_runs=1,
)  # fmt: skip


def affordable(lane: Lane, sizes: Sizes, copies: int = COPIES) -> int:
    """The bytes of a batch that fits into what is free on the device `copies` times over: whole items, at least one."""
    lane.cupy.get_default_memory_pool().free_all_blocks()
    free, _ = lane.cupy.cuda.runtime.memGetInfo()
    most = min(sizes.batch_bytes, int(free * MEMORY_SHARE) // copies)
    return max(1, most // sizes.item_bytes) * sizes.item_bytes


def describe(libraries: Libraries, device: int) -> dict[str, Any]:
    """Name, driver, CUDA, libraries; what a table of figures must have at its top."""
    runtime = libraries.cupy.cuda.runtime
    name = runtime.getDeviceProperties(device)["name"].decode("utf-8", "replace")
    libraries.cupy.cuda.Device(device).use()
    free, total = runtime.memGetInfo()
    names, driver = nvidia_smi.gpus_and_driver()
    return {
        "name": name,
        "compute_capability": ".".join(map(str, capability(libraries, device))),
        "memory_bytes": int(total),
        "memory_free_bytes": int(free),
        "devices_of_the_machine": max(len(names), int(runtime.getDeviceCount())),
        "driver": driver or "unknown, as there is no nvidia-smi",
        "cuda_of_the_driver": cuda_version(int(runtime.driverGetVersion())),
        "cuda_runtime": cuda_version(int(runtime.runtimeGetVersion())),
        "nvcomp": f"{libraries.nvcomp.__version__} ({_package('nvidia-nvcomp-cu12', 'nvidia-nvcomp-cu13')})",
        "cupy": f"{libraries.cupy.__version__} ({_package('cupy-cuda12x', 'cupy-cuda13x')})",
    }


def cuda_version(number: int) -> str:
    """As CUDA's API numbers them: 12090 is 12.9."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _package(*names: str) -> str:
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of no package that pip knows"


def slug(name: str) -> str:
    """A device's name for a file name: nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"
