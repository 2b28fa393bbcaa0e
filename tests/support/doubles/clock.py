"""Time that passes only when somebody sleeps."""

from __future__ import annotations

import threading


class SleepingClock:
    """A clock (s) and the sleep that moves it on. Thread-safe."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self._now += seconds
