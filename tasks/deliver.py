"""The steps of delivering a webhook: describe the run that ended, and send the message."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid5

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from blocks.lookup import media_block, patiently, webhook_block
from poorwill.errors import NotFound, UsageError
from poorwill.media import delivery
from poorwill.runs import Failure, Status, status_of
from poorwill.web import webhook as sending
from tasks.retries import policy

_IDS = UUID("a5b1c9be-7c4f-4d0e-9d3a-2f6f9a0f6f0e")
"""The namespace of delivery ids: the same message sent twice has the same id."""


@task(name="describe_run", **policy())
def describe_run(run: str) -> dict[str, Any] | None:
    """The message about a run's end; None for a run without a `webhook_url`, or one that was begun again.

    `url` and its like are of the video, where there is one. NotFound for a run that is gone.
    """
    found = _read(run)
    state = found.state
    if not found.parameters.get("webhook_url") or state is None or not state.is_final():
        return None
    status, failure = status_of(state.type.value), Failure.of_state(state.type.value, state.message or "")
    return {
        "delivery": str(uuid5(_IDS, f"{run}/{state.id}")),
        "body": {
            "event": f"run.{status}",
            "id": run,
            "flow": _flow_name(found),
            "status": status.value,
            **(_video(found) if status is Status.DONE else {}),
            **({"error": asdict(failure)} if status is Status.FAILED else {}),
            "created_at": _iso(found.created),
            "started_at": _iso(found.start_time),
            "ended_at": _iso(found.end_time or state.timestamp),
        },
    }


@task(name="post_message", cache_policy=NO_CACHE, persist_result=False)
def post_message(webhook: str, delivery: str, body: dict[str, Any], run: str | None = None) -> dict[str, Any]:
    """Send it until it is taken: that is where the retries are. Returns its id, the host, the status and attempts.

    It goes to the `webhook_url` of `run`, or without one to the URL of the webhook block, which signs it.
    """
    block, say = webhook_block(webhook), get_run_logger().warning
    receiver = block.receiver() if run is None else block.receiver_at(str(_read(run).parameters["webhook_url"]))
    return {"delivery": delivery, **asdict(sending.deliver(receiver, delivery, json.dumps(body).encode(), say=say))}


def delivery_of_notice(webhook: str, event_id: str) -> str:
    """The delivery id of an event at that webhook."""
    return str(uuid5(_IDS, f"{webhook}/{event_id}"))


def _read(run: str) -> FlowRun:
    try:
        run_id = UUID(run)
    except ValueError:
        raise UsageError(f"'{run[:80]}' is not the id of a run") from None
    try:
        with get_client(sync_client=True) as client:
            return patiently(lambda: client.read_flow_run(run_id))
    except ObjectNotFound:
        raise NotFound(f"there is no run {run}: it was deleted before its end could be delivered") from None


def _flow_name(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        return patiently(lambda: client.read_flow(run.flow_id)).name


def _video(run: FlowRun) -> dict[str, Any]:
    """Where its video is, found from the run's id alone."""
    media = media_block(str(run.parameters.get("media") or "media"))
    with closing(media.open()) as store:
        if delivery.delivered(store, str(run.id)) is None:
            return {"url": None}
        found = delivery.urls(store, str(run.id), media.url_expires_s)
    return {"url": found["video"], "poster_url": found["poster"], "url_expires_s": media.url_expires_s}


def _iso(at: datetime | None) -> str | None:
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds") if at is not None else None
