"""How tasks are retried: transient errors alone, with growing waits.

No task is cached (NO_CACHE): a run that is begun again continues from what the store holds. That is true also on
another worker and after Prefect's own storage was lost, and a cached "done" could contradict it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.tasks import exponential_backoff

from poorwill.errors import DeadlineExceeded, EngineLost, NotFound, PoorwillError, TransientError

RETRIES = 4


Condition = Callable[[Any, Any, Any], bool]
Errors = type[PoorwillError] | tuple[type[PoorwillError], ...]


def _retried(when: Errors, unless: Errors = ()) -> Condition:
    def condition(task: Any, task_run: Any, state: Any) -> bool:
        error = state.result(raise_on_failure=False)
        return isinstance(error, when) and not isinstance(error, unless)

    return condition


transient = _retried(TransientError)
"""For steps that reach the engine themselves: a lost one is started again."""
transient_with_engine = _retried(TransientError, unless=EngineLost)
"""For steps that continue what an engine has in memory: when it is lost, the flow begins again at the scan."""
transient_or_upload_gone = _retried((TransientError, NotFound), unless=EngineLost)
"""For packing: a store that was restarted may have forgotten the part's upload. The part starts over."""
transient_in_time = _retried(TransientError, unless=DeadlineExceeded)
"""For steps with a deadline of their own: one that was not enough would not be enough again."""


def policy(condition: Condition = transient) -> dict[str, Any]:
    """Keyword arguments for `prefect.task`: waits of about 1, 2, 4 and 8 s."""
    return {
        "retries": RETRIES,
        "retry_delay_seconds": exponential_backoff(1),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": condition,
        "cache_policy": NO_CACHE,
        "persist_result": False,
    }


def attempt_number() -> int:
    """How many times the current task run was tried, from 1: the engine drops events of older attempts."""
    context = TaskRunContext.get()
    return context.task_run.run_count if context is not None else 1
