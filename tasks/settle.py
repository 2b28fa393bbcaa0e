"""Step 4: what changed while it was being read."""

from __future__ import annotations

from prefect import task

from poorwill.control.snapshot.snapshot_run import STEP_DEADLINE_S
from tasks import sessions
from tasks.retries import policy, transient_with_engine


@task(name="settle", **policy(transient_with_engine))
def settle(run: str, deadline_s: float = STEP_DEADLINE_S) -> list[int]:
    """Scan again. Returns the numbers of the parts to pack for what changed; empty when nothing did.

    Args:
        run: the id of the connection.
        deadline_s: after this long the scan is cancelled.
    """
    return sorted(sessions.get(run).taking().settle(deadline_s))
