"""What clients are told of a run's state."""

from __future__ import annotations

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Completed, Crashed, Failed

from tasks.run_status import MESSAGE_CHARS_MAX, error_of, status_of


def test_every_state_has_a_status() -> None:
    """Also those that Prefect adds, and a run that has none yet."""
    assert {status_of(State(type=kind)) for kind in StateType} == {"queued", "running", "done", "failed", "cancelled"}
    assert [status_of(state) for state in (Completed(), Crashed(), Cancelled(), None)] == [
        "done", "failed", "cancelled", "queued",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Failed(message="UsageError: fps: must be a number"), ("UsageError", "fps: must be a number")),
        (Failed(message="Refused: https://h/x?token=1\nand more"), ("Refused", "https://h/x?***\\x0aand more")),
        (Failed(message="Flow run encountered an exception: x"), ("Failed", "Flow run encountered an exception: x")),
        (Failed(), ("Failed", "it failed without a message")),
        (Crashed(message="NotFound: no"), ("Crashed", "NotFound: no")),
        (Crashed(), ("Crashed", "its process was lost")),
        (Failed(message="x" * 9_000), ("Failed", "x" * MESSAGE_CHARS_MAX)),
    ],
)
def test_errors(state: State[object], error: tuple[str, str]) -> None:
    """One line without secrets, of bounded length."""
    assert error_of(state) == {"type": error[0], "message": error[1]}
