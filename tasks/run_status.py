"""How a run stands, in the words that clients are told."""

from __future__ import annotations

import re
from typing import Literal

from prefect.client.schemas.objects import State, StateType

from poorwill.errors import masked, one_line

MESSAGE_CHARS_MAX = 2_000
_TYPED = re.compile(r"([A-Z][A-Za-z]{2,40}): (.+)")
Status = Literal["queued", "running", "done", "failed", "cancelled"]

_STATUSES: dict[StateType, Status] = {
    StateType.SCHEDULED: "queued",
    StateType.PENDING: "queued",
    StateType.RUNNING: "running",
    StateType.PAUSED: "running",
    StateType.CANCELLING: "running",
    StateType.COMPLETED: "done",
    StateType.FAILED: "failed",
    StateType.CRASHED: "failed",
    StateType.CANCELLED: "cancelled",
}


def status_of(state: State | None) -> Status:
    """A run without a state has just been created."""
    return _STATUSES[state.type] if state is not None else "queued"


def error_of(state: State) -> dict[str, str]:
    """`type` and `message` of a run that failed: what a flow raised on purpose has the error's name, anything else is
    `Failed`, and `Crashed` where its process was lost."""
    message = one_line(masked(state.message or ""))[:MESSAGE_CHARS_MAX]
    if state.type is StateType.CRASHED:
        return {"type": "Crashed", "message": message or "its process was lost"}
    named = _TYPED.fullmatch(message)
    if named is None:
        return {"type": "Failed", "message": message or "it failed without a message"}
    return {"type": named[1], "message": named[2]}
