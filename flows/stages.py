"""What the flows share: their clock, their mapped steps, and how they end in failure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from prefect import unmapped
from prefect.futures import as_completed
from prefect.logging import get_run_logger
from prefect.states import Cancelled as CancelledState
from prefect.states import Failed

from poorwill.errors import Cancelled, EngineFailed, EngineLost, PoorwillError
from poorwill.runs import Failure
from tasks.sessions import sessions

OPENINGS_MAX = 3
"""How often a run begins again after it lost its engine."""


class Stages:
    """Milliseconds per stage; a stage that is repeated adds up."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings_ms[name] = self.timings_ms.get(name, 0) + round((time.monotonic() - began) * 1000)


def openings() -> Iterator[AbstractContextManager[None]]:
    """`for opening in openings(): with opening: ...` runs the block again, a few times, when it loses its engine."""
    lost = True

    @contextmanager
    def opening(last: bool) -> Iterator[None]:
        nonlocal lost
        lost = False
        try:
            yield
        except EngineLost as error:
            if last:
                raise
            lost = True
            get_run_logger().warning("%s: opening the machine again", error.message)

    for number in range(1, OPENINGS_MAX + 1):
        if lost:
            yield opening(number == OPENINGS_MAX)


def each(step: Any, run: str, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """`step` mapped over the parts, all submitted at once. Raises the first error, after it stopped the others."""
    results: list[dict[str, Any]] = []
    error: BaseException | None = None
    for future in as_completed(step.map(unmapped(run), list(numbers))):
        found = future.result(raise_on_failure=False)
        if isinstance(found, dict):
            results.append(found)
        elif error is None:
            error = found if isinstance(found, BaseException) else EngineFailed(f"a part's task ended as {found!r}")
            sessions.stop(run)
    if error is not None:
        raise error
    return results


def failed(error: PoorwillError) -> Any:
    """The state a flow returns for an expected failure: its message is the error's, without a traceback in the log."""
    return Failed(message=Failure(type(error).__name__, error.message).format(), data=error)


def ended(error: PoorwillError) -> Any:
    """The same for flows that can be stopped between two steps: that was asked for, and is no failure."""
    return CancelledState(message=error.message) if isinstance(error, Cancelled) else failed(error)
