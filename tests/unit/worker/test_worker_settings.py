"""What a worker is told by its environment, and what it says of nonsense."""

from __future__ import annotations

import pytest

from poorwill.errors import UsageError
from worker.settings import Settings


def test_nothing_is_said() -> None:
    """All of the host's GPUs, four runs beside them, no health endpoint."""
    settings = Settings.read({"HOME": "/h"}, find_gpus=lambda: ("GPU-1", "GPU-2"))
    assert (settings.gpus, settings.cpu_slots, settings.control_slots) == (("GPU-1", "GPU-2"), 0, 4)
    assert settings.health is None


def test_everything_is_said() -> None:
    """Ids are taken as they are, also those of no GPU here: that is how several are simulated."""
    given = {
        "POORWILL_GPUS": "0, 3",
        "POORWILL_CPU_SLOTS": "2",
        "POORWILL_CONTROL_SLOTS": "0",
        "POORWILL_HEALTH": "[::1]:8082",
        "POORWILL_DRAIN_TIMEOUT_S": "5",
        "POORWILL_STATE_DIR": "/state",
    }
    settings = Settings.read(given)
    assert (settings.gpus, settings.cpu_slots, settings.control_slots) == (("0", "3"), 2, 0)
    assert (settings.health, settings.drain_timeout_s, str(settings.state_folder)) == (("::1", 8082), 5.0, "/state")
    assert Settings.read({"POORWILL_GPUS": "none"}).gpus == ()
    assert Settings.read({"POORWILL_GPUS": "none", "POORWILL_HEALTH": ":80"}).health == ("0.0.0.0", 80)


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
def test_nonsense_is_named(name: str, value: str) -> None:
    """The variable, its value, and what was expected."""
    with pytest.raises(UsageError, match=rf"{name}='.*expected"):
        Settings.read({"POORWILL_GPUS": "none", name: value})
