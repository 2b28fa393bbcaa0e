"""Which workers of a pool have died, by the heartbeats that the server has of them. No clocks are compared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

MISSED = 3
"""So many heartbeats in a row must be missing."""


class Heartbeats:
    """A worker counts as dead when its last heartbeat stayed the same while it was watched for MISSED intervals.

    After a gap in watching (the server was away, or this process slept) the watch begins anew: no heartbeat could
    arrive either.
    """

    def __init__(self, gap_s_max: float) -> None:
        self._gap_s_max = gap_s_max
        self._watched_s: float | None = None
        self._seen: dict[str, tuple[datetime | None, float, float]] = {}  # heartbeat, since when it is seen, interval

    def observe(self, workers: Mapping[str, tuple[datetime | None, float | None]], now_s: float) -> None:
        """Note what the server has now: for each worker its last heartbeat, and its interval in seconds."""
        gap = self._watched_s is not None and now_s - self._watched_s > self._gap_s_max
        before, self._seen, self._watched_s = {} if gap else self._seen, {}, now_s
        for name, (beat, interval_s) in workers.items():
            known = name in before and before[name][0] == beat
            self._seen[name] = (beat, before[name][1] if known else now_s, interval_s or 30.0)

    def dead(self, name: str) -> bool:
        """False for a worker the server does not know."""
        if name not in self._seen or self._watched_s is None:
            return False
        _, since_s, interval_s = self._seen[name]
        return self._watched_s - since_s >= MISSED * interval_s
