"""The settings of one worker, from its environment: they describe this host, as a work pool describes runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from poorwill.engine.machine import nvidia_smi
from poorwill.errors import UsageError

PREFIX = "POORWILL_"
Slots = Annotated[int, Field(ge=0, le=64)]


def _gpus(text: str) -> tuple[str, ...]:
    gpus = () if text.strip() == "none" else tuple(part.strip() for part in text.split(","))
    if "" in gpus or len(set(gpus)) != len(gpus):
        raise ValueError("expected auto, none, or ids like 0,1, each once")
    return gpus


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise ValueError("expected address:port, for example 0.0.0.0:8082")
    return host.strip("[]") or "0.0.0.0", int(port)


class Settings(BaseSettings):
    """Each is read from POORWILL_<its name in capitals>.

    `gpus`: one lane each, by what CUDA_VISIBLE_DEVICES calls it; written `auto`, `none`, or ids like `0,1`.
    `cpu_slots`: lanes for the same runs without a GPU. `control_slots`: runs that need neither, at once.
    `health`: (address, port) to answer at, written `address:port`. `drain_timeout_s`: how long a SIGTERM waits for
    runs to end.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, validate_default=False, frozen=True, extra="ignore"
    )

    gpus: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_gpus)] = ("auto",)
    cpu_slots: Slots = 0
    control_slots: Slots = 4
    health: Annotated[tuple[str, int] | None, NoDecode, BeforeValidator(_address)] = None
    drain_timeout_s: Annotated[int, Field(ge=0, le=86_400)] = 300
    state_dir: Path = Field(default_factory=lambda: Path.home() / ".poorwill")

    @classmethod
    def read(cls, find_gpus: Callable[[], tuple[str, ...]] | None = None) -> Settings:
        """From this process's environment; `find_gpus` is asked for `auto`, the default. UsageError."""
        try:
            found = cls()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            problem = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected:")
            raise UsageError(f"{PREFIX}{str(first['loc'][0]).upper()}='{first['input']}': {problem}") from None
        if found.gpus == ("auto",):
            return found.model_copy(update={"gpus": (find_gpus or _find_gpus)()})
        return found


def _find_gpus() -> tuple[str, ...]:
    """The UUIDs of this host's NVIDIA GPUs, which mean the same in every process; empty without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    return nvidia_smi.gpu_uuids()
