"""The vocabulary of runs: how one stands, why it failed, and how far it is.

Prefect keeps the runs. Whatever tells of them (the API, the program, webhooks) uses these words, and what travels
through Prefect as text is written and read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from poorwill.errors import error_type, masked, one_line

MESSAGE_CHARS_MAX = 2_000
_UNCAUGHT = "Flow run encountered an exception: "
"""Prefect writes it before the name of an error that a flow raised."""


class Status(str, Enum):
    """How a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_over(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


STATUS_OF: Mapping[str, Status] = {
    "SCHEDULED": Status.QUEUED,  # Scheduled, Late, AwaitingRetry, AwaitingConcurrencySlot, Resuming
    "PENDING": Status.QUEUED,  # Pending, Submitting, InfrastructurePending, NotReady
    "RUNNING": Status.RUNNING,  # Running, Retrying
    "PAUSED": Status.RUNNING,  # Paused, Suspended
    "CANCELLING": Status.RUNNING,
    "COMPLETED": Status.DONE,  # Completed, Cached, RolledBack
    "FAILED": Status.FAILED,  # Failed, TimedOut
    "CRASHED": Status.FAILED,
    "CANCELLED": Status.CANCELLED,
}
"""By the type of Prefect's state, which decides: the states' names only divide the types."""
QUEUED_TYPES = tuple(state_type for state_type, status in STATUS_OF.items() if status is Status.QUEUED)
ACTIVE_TYPES = tuple(state_type for state_type, status in STATUS_OF.items() if not status.is_over)


def status_of(state_type: str | None) -> Status:
    """A run without a state was created just now. A type that a later Prefect adds counts as running, not as over."""
    return STATUS_OF.get(state_type, Status.RUNNING) if state_type else Status.QUEUED


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed. `type` is the error's name; `Failed` if the message names none, `Crashed` if the run's process
    was lost."""

    type: str
    message: str

    def format(self) -> str:
        """The message of the state that a flow returns."""
        return f"{self.type}: {self.message}"

    @classmethod
    def parse(cls, text: str) -> Failure | None:
        """None for a text that does not begin with an error's name."""
        name, _, message = text.partition(": ")
        is_name = name.isascii() and name.isalpha() and name[0].isupper() and 3 <= len(name) <= 41
        return cls(name, message) if is_name and message else None

    @classmethod
    def of_state(cls, state_type: str, message: str) -> Failure:
        """Of a failed run's state. The message becomes one line of bounded length, without secrets."""
        text = one_line(masked(message))[:MESSAGE_CHARS_MAX]
        if state_type == "CRASHED":
            return cls("Crashed", text or "its process was lost")
        found = cls.parse(text.removeprefix(_UNCAUGHT))
        if found is None or (text.startswith(_UNCAUGHT) and error_type(found.type) is None):
            return cls("Failed", text or "it failed without a message")
        return found


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step of a run is: `done` of `total`, counted in `unit`. `eta_s`: seconds to its end, if known."""

    step: str
    done: float
    total: float = 100.0
    unit: str = "%"
    eta_s: float | None = None

    @property
    def percent(self) -> float:
        """0 to 100, with one decimal. A step that has nothing to do is at its end."""
        return round(min(100.0, 100.0 * self.done / self.total), 1) if self.total > 0 else 100.0

    def format(self) -> str:
        """The description of a progress artifact: `denoised 3/30 steps; 42 s to go`."""
        to_go = f"; {_number(self.eta_s)} s to go" if self.eta_s is not None else ""
        return f"{self.step} {_number(self.done)}/{_number(self.total)} {self.unit}{to_go}"

    @classmethod
    def parse(cls, text: str) -> Progress | None:
        """None for a text that `format` did not write."""
        measured, _, to_go = text.partition("; ")
        try:
            step, share, unit = measured.split(" ")
            done, total = (float(number) for number in share.split("/"))
            eta_s = float(to_go.removesuffix(" s to go")) if to_go else None
        except ValueError:
            return None
        sensible = all(0 <= number < math.inf for number in (done, total, eta_s or 0.0))
        return cls(step, done, total, unit, eta_s) if sensible else None

    @classmethod
    def of_artifact(cls, artifact: Mapping[str, Any]) -> Progress:
        """Of a progress artifact as Prefect's API answers it; of one that somebody else wrote, the percentage."""
        found = cls.parse(str(artifact.get("description") or ""))
        if found is not None:
            return found
        data = artifact.get("data")
        percent = float(data) if isinstance(data, int | float) and math.isfinite(data) else 0.0
        return cls(str(artifact.get("key")), min(100.0, max(0.0, percent)))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
