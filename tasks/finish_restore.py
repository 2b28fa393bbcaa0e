"""Waking, step 4: links, directory times, set-id bits, and a count of everything."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.snapshot import fields
from tasks.retries import policy, transient_with_engine
from tasks.sessions import sessions


@task(name="finish_restore", **policy(transient_with_engine))
def finish_restore(run: str) -> dict[str, Any]:
    """Finish the workspace. Returns how many of each kind were restored, and what was left out.

    Args:
        run: the id of the connection.
    """
    return fields.write(sessions.restore(run).finish())
