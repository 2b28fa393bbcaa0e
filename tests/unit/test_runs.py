"""The vocabulary of runs: every state of Prefect, failures and progress as text and back."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import states
from prefect.client.schemas.objects import TERMINAL_STATES, State, StateType

from api.runs.run_view import Run as ApiRun
from api.runs.run_view import RunView
from poorwill.cli.run_report import failure
from poorwill.cli.runs import Run as ProgramRun
from poorwill.errors import EngineFailed, PoorwillError, error_type
from poorwill.runs import ACTIVE_TYPES, MESSAGE_CHARS_MAX, QUEUED_TYPES, STATUS_OF, Failure, Progress, Status, status_of

NAMED: dict[str, tuple[State[Any], str]] = {
    "Scheduled": (states.Scheduled(), "queued"),
    "Late": (states.Late(), "queued"),
    "AwaitingRetry": (states.AwaitingRetry(), "queued"),
    "AwaitingConcurrencySlot": (states.AwaitingConcurrencySlot(), "queued"),
    "Resuming": (states.Scheduled(name="Resuming"), "queued"),
    "Pending": (states.Pending(), "queued"),
    "Submitting": (states.Submitting(), "queued"),
    "InfrastructurePending": (states.InfrastructurePending(), "queued"),
    "NotReady": (states.Pending(name="NotReady"), "queued"),
    "Running": (states.Running(), "running"),
    "Retrying": (states.Retrying(), "running"),
    "Paused": (states.Paused(), "running"),
    "Suspended": (states.Suspended(), "running"),
    "Cancelling": (states.Cancelling(), "running"),
    "Completed": (states.Completed(), "done"),
    "Cached": (states.Completed(name="Cached"), "done"),
    "RolledBack": (states.Completed(name="RolledBack"), "done"),
    "Failed": (states.Failed(message="UsageError: no"), "failed"),
    "TimedOut": (states.Failed(name="TimedOut", message="Flow run exceeded timeout of 1.0 second(s)"), "failed"),
    "Crashed": (states.Crashed(message="its worker is gone"), "failed"),
    "Cancelled": (states.Cancelled(), "cancelled"),
}


def document(state: State[Any]) -> dict[str, Any]:
    """A flow run in that state, as Prefect's API answers it."""
    now = datetime.now(timezone.utc).isoformat()
    described = {"type": state.type.value, "name": state.name, "message": state.message}
    return {"id": str(uuid4()), "flow_id": str(uuid4()), "name": "r", "created": now, "state": described,
            "state_type": state.type.value, "state_name": state.name}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_the_api_and_the_program_agree(name: str) -> None:
    """On the status of a run in every state, and on the error of one that failed."""
    state, expected = NAMED[name]
    assert state.name == name
    row = document(state)
    view, run = RunView.of(ApiRun.of(row), "generate"), ProgramRun.of(row)
    assert view.status is run.status is status_of(state.type.value) is Status(expected)
    assert (view.error is not None) == (expected == "failed")
    if view.error is not None:
        raised = failure(run.name, run.state_type, run.message)
        ours = error_type(view.error.type)
        assert type(raised) is ours if ours is not None else view.error.message in raised.message


def test_every_type_of_state_is_named() -> None:
    """Every state of Prefect is in the cases above and in the table."""
    assert {state.type for state, _ in NAMED.values()} == set(StateType)
    assert set(STATUS_OF) == {kind.value for kind in StateType} and set(STATUS_OF.values()) == set(Status)
    assert set(QUEUED_TYPES) == {"SCHEDULED", "PENDING"}
    assert set(STATUS_OF) - set(ACTIVE_TYPES) == {kind.value for kind in TERMINAL_STATES}
    makers = (made for _, made in inspect.getmembers(states, inspect.isfunction) if made.__module__ == states.__name__)
    assert {made.__name__ for made in makers if "cls" in inspect.signature(made).parameters} - {"_traced"} <= set(NAMED)


def test_states_without_a_type_here() -> None:
    """A run that has no state yet waits; one in a state that this version does not know is not over."""
    assert status_of(None) is Status.QUEUED and status_of("BEYOND") is Status.RUNNING
    assert f"{Status.DONE}" == "done" and [status.is_over for status in Status] == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (states.Failed(message="UsageError: fps: must be a number"), ("UsageError", "fps: must be a number")),
        (states.Failed(message="Refused: https://h/x?token=1\nand more"), ("Refused", "https://h/x?***\\x0aand more")),
        (states.Failed(message="Flow run encountered an exception: x"),
         ("Failed", "Flow run encountered an exception: x")),
        (states.Failed(message="Flow run encountered an exception: ValueError: x"),
         ("Failed", "Flow run encountered an exception: ValueError: x")),
        (states.Failed(message="Flow run encountered an exception: Refused: no"), ("Refused", "no")),
        (states.Failed(), ("Failed", "it failed without a message")),
        (states.Crashed(message="NotFound: no"), ("Crashed", "NotFound: no")),
        (states.Crashed(), ("Crashed", "its process was lost")),
        (states.Failed(message="x" * 9_000), ("Failed", "x" * MESSAGE_CHARS_MAX)),
    ],
)  # fmt: skip
def test_failures_of_states(state: State[object], error: tuple[str, str]) -> None:
    """One line without secrets, of bounded length."""
    assert Failure.of_state(state.type.value, state.message or "") == Failure(*error)


@given(st.sampled_from([PoorwillError, *PoorwillError.__subclasses__(), EngineFailed]), st.text(min_size=1))
def test_a_failure_comes_back(kind: type[PoorwillError], text: str) -> None:
    """From the message that a flow writes."""
    error = kind(text)
    written = Failure(kind.__name__, error.message)
    assert Failure.parse(written.format()) == written
    assert error_type(kind.__name__) is kind


@pytest.mark.parametrize("text", ["", "x", "Failed", "no name: x", "lower: x", "Übel: x", "A: x", "UsageError: "])
def test_texts_that_name_no_error(text: str) -> None:
    """None of them is taken for an error's type."""
    assert Failure.parse(text) is None


numbers = st.one_of(st.integers(0, 2**53), st.floats(0, 1e18).map(lambda number: round(number, 1)))


@given(
    st.builds(
        Progress,
        step=st.from_regex(r"[a-z][a-z0-9_-]*", fullmatch=True),
        done=numbers,
        total=numbers,
        unit=st.sampled_from(["%", "bytes", "steps", "frames"]),
        eta_s=st.none() | numbers,
    )
)
def test_progress_comes_back(progress: Progress) -> None:
    """From the description of an artifact, whatever its percentage."""
    assert Progress.parse(progress.format()) == progress
    assert 0 <= progress.percent <= 100
    assert Progress.of_artifact({"key": "x", "data": 1.0, "description": progress.format()}) == progress


def test_how_progress_reads() -> None:
    """In Prefect's UI."""
    assert Progress("denoised", 3, 30, "steps", 42).format() == "denoised 3/30 steps; 42 s to go"
    assert Progress("uploaded", 35.25).format() == "uploaded 35.25/100 %"


@given(st.text())
def test_any_other_description(text: str) -> None:
    """Text of other origin gives None, or a progress that is written and read again as the same."""
    found = Progress.parse(text)
    assert found is None or Progress.parse(found.format()) == found


@pytest.mark.parametrize("text", ["a 1/nan %", "a -1/3 %", "a 1/2/3 %", "a 1 %", "denoised; 10 s to go", "a 1/2 %; x"])
@pytest.mark.parametrize(
    ("data", "percent"), [(12.34, 12.3), (-1, 0.0), (1e9, 100.0), ("50", 0.0), (float("nan"), 0.0)]
)
def test_artifacts_of_other_origin(text: str, data: object, percent: float) -> None:
    """Their percentage is taken, within 0 and 100; damaged ones raise nothing."""
    found = Progress.of_artifact({"key": "k", "data": data, "description": text})
    assert (found.step, found.percent, found.eta_s) == ("k", percent, None)
