"""What the flows share: their mapped steps, beginning again, and how they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

from prefect import unmapped
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.logging import get_run_logger
from prefect.states import Cancelled as CancelledState
from prefect.states import Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from poorwill.errors import Cancelled, EngineFailed, EngineLost, PoorwillError
from poorwill.runs import Failure
from tasks.sessions import sessions

OPENINGS_MAX = 3
"""How often a run begins again after it lost its engine."""


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


def threads(count: int) -> TaskRunner[PrefectFuture[Any]]:
    """Runs up to `count` steps of a flow at once."""
    # As Prefect itself casts its default: the type parameter of its task runners is invariant.
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=count))


def failed(error: PoorwillError) -> dict[str, Any]:
    """What a flow returns for an expected failure: the run fails with the error's message, without a traceback."""
    return ending(Failed(message=Failure(type(error).__name__, error.message).format(), data=error))


def ended(error: PoorwillError) -> dict[str, Any]:
    """As `failed`, for flows that can be stopped between two steps: a run that was asked to stop is cancelled."""
    return ending(CancelledState(message=error.message)) if isinstance(error, Cancelled) else failed(error)


def ending(state: State[Any]) -> dict[str, Any]:
    """A state, typed as what flows return: it becomes the run's state, and a caller gets its data or error."""
    return cast("dict[str, Any]", state)
