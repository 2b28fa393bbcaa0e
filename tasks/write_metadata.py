"""Step 5: with this the snapshot exists."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.control.snapshot.snapshot_run import STEP_DEADLINE_S
from tasks import sessions
from tasks.retries import policy, transient_with_engine


@task(name="write_metadata", **policy(transient_with_engine))
def write_metadata(run: str, deadline_s: float = STEP_DEADLINE_S) -> dict[str, Any]:
    """Check that every part is in the store, write the manifest, then the metadata. Returns the totals.

    Args:
        run: the id of the connection.
        deadline_s: after this long the engine stops sending its manifest.
    """
    document = sessions.get(run).taking().write_metadata(deadline_s)
    return dict(document["totals"])
