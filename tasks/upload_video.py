"""Generating, step 3: the video into its store."""

from __future__ import annotations

from typing import Any

from prefect import task

from poorwill.media import delivery
from tasks.retries import policy, transient_in_time
from tasks.studio import current


@task(name="upload_video", **policy(transient_in_time))
def upload_video(facts: dict[str, Any]) -> delivery.VideoRecord:
    """Upload video, poster and contact sheet, and then the record, with which the run's video exists.

    Idempotent. Returns the record.

    Args:
        facts: the record's fields, without the sizes.
    """
    opened = current()
    return delivery.deliver(opened.store, opened.run, opened.files, facts)
