"""How busy the GPUs of a machine are, by nvidia-smi."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from poorwill.engine.machine import nvidia_smi
from poorwill.errors import HostUnfit

_GPU_DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg", "dev/kfd")
_GPU_QUERY = "--query-gpu=uuid,utilization.gpu,memory.used,memory.total"
_PROCESS_QUERY = "--query-compute-apps=gpu_uuid,pid"


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """None where the driver does not say. `processes`: without our own, and those of other containers."""

    utilisation_percent: float | None
    memory_used_mib: float | None
    memory_total_mib: float | None
    processes: int


def gpu_loads(root: Path, path: str | None = None) -> dict[str, GpuLoad]:
    """By the GPU's uuid; empty without a GPU among the devices below `root`. HostUnfit if there is one and nvidia-smi,
    looked for in `path` or in $PATH, does not say how busy it is."""
    try:
        processes = nvidia_smi.query(_PROCESS_QUERY, units=False, path=path)
        gpus = nvidia_smi.query(_GPU_QUERY, units=False, path=path)
    except HostUnfit:
        if any((root / device).exists() for device in _GPU_DEVICES):
            raise
        return {}  # an image may have nvidia-smi where there is no GPU
    held = [row[0] for row in processes if len(row) == 2 and row[1] != str(os.getpid())]
    return {
        uuid[:80]: GpuLoad(_number(utilisation), _number(used), _number(total), held.count(uuid))
        for uuid, utilisation, used, total in [row for row in gpus if len(row) == 4][: nvidia_smi.GPUS_MAX]
    }


def busiest(before: dict[str, GpuLoad], after: dict[str, GpuLoad]) -> list[GpuLoad]:
    """Of two readings of the same GPUs the larger of each figure: utilisation is that of a fraction of a second."""
    return [_larger(before.get(uuid, load), load) for uuid, load in {**before, **after}.items()]


def _larger(one: GpuLoad, other: GpuLoad) -> GpuLoad:
    pairs = zip(astuple(one), astuple(other), strict=True)
    figures: list[Any] = [None if None in pair else max(pair) for pair in pairs]
    return GpuLoad(*figures)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None  # "[N/A]", "[Not Supported]"
