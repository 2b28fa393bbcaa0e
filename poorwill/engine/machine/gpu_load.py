"""How busy the GPUs of a machine are, by nvidia-smi."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from poorwill.engine.machine.facts import GPUS_MAX, NVIDIA_SMI_TIMEOUT_S

_GPU_DEVICES = ("dev/nvidia0", "dev/nvidiactl", "dev/dxg", "dev/kfd")
_GPU_QUERY = "--query-gpu=uuid,utilization.gpu,memory.used,memory.total"
_PROCESS_QUERY = "--query-compute-apps=gpu_uuid,pid"
_FORMAT = "--format=csv,noheader,nounits"


class Unasked(Exception):
    """There is a GPU, and what it does is not known. One line."""


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """None where the driver does not say. `processes`: without our own, and those of other containers."""

    utilisation_percent: float | None
    memory_used_mib: float | None
    memory_total_mib: float | None
    processes: int


class Nvidia:
    """Asks the nvidia-smi found in `path` (None: $PATH). Each question has a timeout."""

    def __init__(self, root: Path, path: str | None = None) -> None:
        self._root = root
        self._program = shutil.which("nvidia-smi", path=path)

    def loads(self) -> dict[str, GpuLoad]:
        """By the GPU's uuid; empty where there is no GPU. Unasked if it cannot be told."""
        try:
            return self._loads()
        except Unasked:
            if any((self._root / device).exists() for device in _GPU_DEVICES):
                raise
            return {}  # an image may have nvidia-smi where there is no GPU

    def _loads(self) -> dict[str, GpuLoad]:
        if self._program is None:
            raise Unasked("there is a GPU's device, and no nvidia-smi to ask what it does")
        held = [row[0] for row in self._ask(_PROCESS_QUERY) if len(row) == 2 and row[1] != str(os.getpid())]
        rows = [row for row in self._ask(_GPU_QUERY) if len(row) == 4][:GPUS_MAX]
        return {
            uuid[:80]: GpuLoad(_number(utilisation), _number(used), _number(total), held.count(uuid))
            for uuid, utilisation, used, total in rows
        }

    def _ask(self, query: str) -> list[list[str]]:
        assert self._program is not None
        try:
            said = subprocess.run(
                [self._program, query, _FORMAT],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True,
            ).stdout  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unasked(f"nvidia-smi did not answer within {NVIDIA_SMI_TIMEOUT_S:.0f} s") from None
        except subprocess.CalledProcessError as error:
            words = bytes(error.stdout or error.stderr or b"").decode("utf-8", "replace").split("\n")[0]
            raise Unasked(f"nvidia-smi ended with status {error.returncode}: {words[:120]}") from None
        except OSError as error:
            raise Unasked(f"nvidia-smi cannot be run: {error.strerror}") from None
        return [[cell.strip() for cell in line.split(",")] for line in said.decode("utf-8", "replace").splitlines()]


def busiest(before: dict[str, GpuLoad], after: dict[str, GpuLoad]) -> list[GpuLoad]:
    """Of two looks at the same GPUs the larger of each figure: utilisation is that of a fraction of a second."""
    found = []
    for uuid, load in {**before, **after}.items():
        other = before.get(uuid, load)
        found.append(
            GpuLoad(
                _larger(load.utilisation_percent, other.utilisation_percent),
                _larger(load.memory_used_mib, other.memory_used_mib),
                load.memory_total_mib,
                max(load.processes, other.processes),
            )
        )
    return found


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None  # "[N/A]", "[Not Supported]"
