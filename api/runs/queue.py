"""The queue of each deployment: its length, and the position of a run in it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

from api.runs.caches import BatchReader
from api.runs.client import Prefect
from api.runs.run_view import Run
from poorwill.runs import QUEUED_TYPES

POSITION_KEPT_S, POSITION_KEPT_S_MAX, PLACES_A_SECOND = 1.0, 30.0, 10.0
Place = tuple[UUID, datetime]
"""A deployment, and when a run of it was to begin."""


class Queue:
    """Counts on Prefect's server, which are kept: a length for a second, a position the longer the further back it is
    (`position / PLACES_A_SECOND` seconds), since it then changes little beside its value. So a thousand runs that are
    all asked for cost no more than some dozens."""

    def __init__(self, prefect: Prefect) -> None:
        self._prefect = prefect
        self._depths: BatchReader[UUID, int] = BatchReader(self._read_depths, lambda depth: 1.0)
        self._positions: BatchReader[Place, int] = BatchReader(self._read_positions, _position_kept_s, batch_max=5)
        self._created_since: dict[UUID, int] = {}

    async def depth(self, deployment: UUID) -> int:
        """How many runs wait, with those that this process created since they were counted."""
        depth = await self._depths.get(deployment) or 0
        return depth + self._created_since.get(deployment, 0)

    async def position(self, run: Run) -> int | None:
        """1 for the next run; None for a run without a deployment."""
        if run.deployment_id is None:
            return None
        return await self._positions.get((run.deployment_id, run.expected_at or run.created_at))

    def created(self, deployment: UUID) -> None:
        self._created_since[deployment] = self._created_since.get(deployment, 0) + 1

    async def close(self) -> None:
        await asyncio.gather(self._depths.close(), self._positions.close())

    async def _read_depths(self, deployments: list[UUID]) -> dict[UUID, int]:
        for deployment in deployments:
            self._created_since.pop(deployment, None)
        counts = await asyncio.gather(*(self._count(_waiting(one)) for one in deployments))
        return dict(zip(deployments, counts, strict=True))

    async def _read_positions(self, places: list[Place]) -> dict[Place, int]:
        """A run is counted with those before it, unless it began just now."""
        counts = await asyncio.gather(*(self._count(_waiting(*place)) for place in places))
        return {place: max(1, count) for place, count in zip(places, counts, strict=True)}

    async def _count(self, chosen: dict[str, Any]) -> int:
        return int(await self._prefect.post("/flow_runs/count", {"flow_runs": chosen}))


def _waiting(deployment: UUID, until: datetime | None = None) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "deployment_id": {"any_": [str(deployment)]},
        "state": {"type": {"any_": list(QUEUED_TYPES)}},
    }
    if until is not None:
        chosen["expected_start_time"] = {"before_": until.isoformat()}
    return chosen


def _position_kept_s(position: int | None) -> float:
    return min(POSITION_KEPT_S_MAX, max(POSITION_KEPT_S, (position or 0) / PLACES_A_SECOND))
