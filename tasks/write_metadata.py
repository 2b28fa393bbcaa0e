"""Step 5: with this the snapshot exists."""

from __future__ import annotations

from typing import Any

from prefect import task

from tasks.retries import policy, transient_with_engine
from tasks.sessions import sessions


@task(name="write_metadata", **policy(transient_with_engine))
def write_metadata(run: str) -> dict[str, Any]:
    """Check that every part is in the store, write the manifest, then the metadata. Returns the totals.

    Args:
        run: the id of the connection.
    """
    return sessions.snapshot(run).write_metadata().totals.document()
