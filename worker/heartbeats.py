"""Which workers of a pool have died, by the heartbeats that the server has of them. No clocks are compared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

MISSED = 3
"""So many heartbeats in a row must be missing."""
INTERVAL_S_DEFAULT = 30.0


class Heartbeats:
    """A worker counts as dead when its last heartbeat stayed the same while it was watched for MISSED intervals.

    After a gap in watching (the server was away, or this process slept) the watch begins anew: no heartbeat could
    arrive either.
    """

    def __init__(self, gap_s_max: float) -> None:
        self._gap_s_max = gap_s_max
        self._watched_s: float | None = None
        self._since: dict[str, tuple[datetime | None, float]] = {}
        self._intervals: dict[str, float] = {}

    def observe(self, workers: Mapping[str, tuple[datetime | None, float | None]], now_s: float) -> None:
        """Note what the server has now: for each worker its last heartbeat, and its interval in seconds."""
        if self._watched_s is not None and now_s - self._watched_s > self._gap_s_max:
            self._since.clear()
        self._watched_s = now_s
        for name in self._since.keys() - workers.keys():
            del self._since[name]
        for name, (beat, interval_s) in workers.items():
            self._intervals[name] = interval_s or INTERVAL_S_DEFAULT
            if name not in self._since or self._since[name][0] != beat:
                self._since[name] = (beat, now_s)
        self._intervals = {name: self._intervals[name] for name in workers}

    def dead(self, name: str) -> bool:
        """False for a worker the server does not know."""
        if name not in self._since or self._watched_s is None:
            return False
        return self._watched_s - self._since[name][1] >= MISSED * self._intervals[name]
