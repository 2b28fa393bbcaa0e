"""Step 4: what changed while it was being read."""

from __future__ import annotations

from prefect import task

from tasks.retries import policy, transient_with_engine
from tasks.sessions import sessions


@task(name="settle", **policy(transient_with_engine))
def settle(run: str) -> list[int]:
    """Scan again. Returns the numbers of the parts to pack for what changed; empty when nothing did.

    Args:
        run: the id of the connection.
    """
    return sorted(sessions.snapshot(run).settle())
