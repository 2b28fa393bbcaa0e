"""What flows have told as events, read from the Prefect server."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client

from tests.worker.rig import until


def told(event: str, kind: str, name: str, count: int = 1) -> list[dict[str, Any]]:
    """The payloads of these events about `poorwill.<kind>.<name>`, newest first, once there are so many."""
    wanted = {"event": {"name": [event]}, "resource": {"id": [f"poorwill.{kind}.{name}"]}}

    def look() -> list[dict[str, Any]]:
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
        return [each["payload"] for each in found] if len(found) >= count else []

    return until(look, f"{count} of {event} about {name}")
