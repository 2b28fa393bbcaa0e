"""What one worker is told by its environment: it describes this host, where a work pool describes runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from poorwill.engine.machine import nvidia_smi
from poorwill.errors import UsageError

SLOTS_MAX = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """`gpus`: one lane each, by what CUDA_VISIBLE_DEVICES calls it. `cpu_slots`: lanes for the same runs without a
    GPU. `control_slots`: runs that need neither, at once. `health`: (address, port) to answer at, or None.
    `drain_timeout_s`: how long a SIGTERM waits for runs to end."""

    gpus: tuple[str, ...]
    cpu_slots: int
    control_slots: int
    health: tuple[str, int] | None
    drain_timeout_s: float
    state_folder: Path

    @classmethod
    def read(
        cls, environment: Mapping[str, str] = os.environ, find_gpus: Callable[[], tuple[str, ...]] | None = None
    ) -> Settings:
        """From POORWILL_GPUS (`auto`, `none`, or ids like `0,1`), POORWILL_CPU_SLOTS, POORWILL_CONTROL_SLOTS,
        POORWILL_HEALTH (`address:port`), POORWILL_DRAIN_TIMEOUT_S and POORWILL_STATE_DIR. UsageError."""
        named = environment.get("POORWILL_GPUS", "auto").strip()
        if named == "auto":
            gpus = (find_gpus or _find_gpus)()
        else:
            gpus = () if named == "none" else tuple(part.strip() for part in named.split(","))
        if "" in gpus or len(set(gpus)) != len(gpus):
            raise UsageError(f"POORWILL_GPUS='{named}': expected auto, none, or ids like 0,1, each once")
        state = environment.get("POORWILL_STATE_DIR") or str(Path.home() / ".poorwill")
        return cls(
            gpus=gpus,
            cpu_slots=_number(environment, "POORWILL_CPU_SLOTS", 0),
            control_slots=_number(environment, "POORWILL_CONTROL_SLOTS", 4),
            health=_address(environment.get("POORWILL_HEALTH", "")),
            drain_timeout_s=float(_number(environment, "POORWILL_DRAIN_TIMEOUT_S", 300, 86_400)),
            state_folder=Path(state),
        )


def _number(environment: Mapping[str, str], name: str, default: int, most: int = SLOTS_MAX) -> int:
    text = environment.get(name, "").strip() or str(default)
    if not text.isdecimal() or int(text) > most:
        raise UsageError(f"{name}='{text}': expected a whole number, at most {most}")
    return int(text)


def _address(text: str) -> tuple[str, int] | None:
    if not text.strip():
        return None
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise UsageError(f"POORWILL_HEALTH='{text}': expected address:port, for example 0.0.0.0:8082")
    return host.strip("[]") or "0.0.0.0", int(port)


def _find_gpus() -> tuple[str, ...]:
    """The UUIDs of this host's NVIDIA GPUs, which mean the same in every process; empty without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    return nvidia_smi.gpu_uuids()
