"""How tasks are retried: transient errors alone, with growing waits.

No task is cached (NO_CACHE): a run that is begun again takes up from what the store holds, which is true also
on another worker and after Prefect's own storage was lost, and which a cached "done" could contradict.
"""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from poorwill.errors import DeadlineExceeded, EngineLost, NotFound, TransientError

RETRIES = 4


def _error(state: Any) -> BaseException | None:
    found = state.result(raise_on_failure=False)
    return found if isinstance(found, BaseException) else None


def transient(task: Any, task_run: Any, state: Any) -> bool:
    """For steps that reach the engine themselves: a lost one is started again."""
    return isinstance(_error(state), TransientError)


def transient_with_engine(task: Any, task_run: Any, state: Any) -> bool:
    """For steps that continue what an engine has in memory: when it is lost, the flow begins again at the scan."""
    error = _error(state)
    return isinstance(error, TransientError) and not isinstance(error, EngineLost)


def transient_or_upload_gone(task: Any, task_run: Any, state: Any) -> bool:
    """For packing: a store that was restarted may have forgotten the part's upload. The part starts over."""
    return transient_with_engine(task, task_run, state) or isinstance(_error(state), NotFound)


def transient_in_time(task: Any, task_run: Any, state: Any) -> bool:
    """For generating: a run whose time is over is not helped by more of it, nor by a server that was too slow."""
    error = _error(state)
    return isinstance(error, TransientError) and not isinstance(error, DeadlineExceeded)


def policy(condition: Any = transient) -> dict[str, Any]:
    """Keyword arguments for `prefect.task`: waits of about 1, 2, 4 and 8 s."""
    return {
        "retries": RETRIES,
        "retry_delay_seconds": exponential_backoff(1),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": condition,
        "cache_policy": NO_CACHE,
        "persist_result": False,
    }
