"""Waking, step 4: links, directory times, set-id bits, and a count of everything."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.snapshot.restore_run import STEP_DEADLINE_S
from tasks import sessions
from tasks.retries import policy, transient_with_engine


@task(name="finish_restore", **policy(transient_with_engine))
def finish_restore(run: str, deadline_s: float = STEP_DEADLINE_S) -> dict[str, Any]:
    """Finish the workspace. Returns how many of each kind were restored, and what was left out.

    Args:
        run: the id of the connection.
        deadline_s: after this long the engine stops.
    """
    return sessions.get(run).restoring().finish(deadline_s)
