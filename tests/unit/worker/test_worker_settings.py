"""What a worker reads from its environment, and how it refuses wrong values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poorwill.errors import UsageError
from worker.settings import Settings


def read(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Settings:
    """The settings of a process with these variables of ours and no others, on a host with two GPUs."""
    for name in filter(lambda name: name.startswith("POORWILL_"), list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.read(find_gpus=lambda: ("GPU-1", "GPU-2"))


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the host's GPUs, four runs beside them, no health endpoint."""
    settings = read(monkeypatch, {"HOME": "/h"})
    assert (settings.gpus, settings.cpu_slots, settings.control_slots) == (("GPU-1", "GPU-2"), 0, 4)
    assert settings.health is None
    assert (settings.drain_timeout_s, settings.state_dir) == (300, Path("/h/.poorwill"))


def test_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are taken as they are, also those of no GPU here: that is how several are simulated."""
    given = {
        "POORWILL_GPUS": "0, 3",
        "POORWILL_CPU_SLOTS": "2",
        "POORWILL_CONTROL_SLOTS": "0",
        "POORWILL_HEALTH": "[::1]:8082",
        "POORWILL_DRAIN_TIMEOUT_S": "5",
        "POORWILL_STATE_DIR": "/state",
    }
    settings = read(monkeypatch, given)
    assert (settings.gpus, settings.cpu_slots, settings.control_slots) == (("0", "3"), 2, 0)
    assert (settings.health, settings.drain_timeout_s, str(settings.state_dir)) == (("::1", 8082), 5.0, "/state")
    assert read(monkeypatch, {"POORWILL_GPUS": "none"}).gpus == ()
    assert read(monkeypatch, {"POORWILL_GPUS": "none", "POORWILL_HEALTH": ":80"}).health == ("0.0.0.0", 80)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POORWILL_GPUS", "0,,1"),
        ("POORWILL_GPUS", "0,0"),
        ("POORWILL_CPU_SLOTS", "-1"),
        ("POORWILL_CPU_SLOTS", "1e3"),
        ("POORWILL_CONTROL_SLOTS", "65"),
        ("POORWILL_HEALTH", "here"),
        ("POORWILL_HEALTH", "127.0.0.1:70000"),
        ("POORWILL_DRAIN_TIMEOUT_S", "long"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The variable, its value, and what was expected."""
    with pytest.raises(UsageError, match=rf"{name}='.*expected"):
        read(monkeypatch, {"POORWILL_GPUS": "none", name: value})
