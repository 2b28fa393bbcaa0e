"""Counters of what the engine has done, for progress bars."""

from __future__ import annotations

import threading

COUNTERS = (
    "entries", "read_bytes", "coded_bytes", "sent_bytes", "fetched_bytes", "cached_bytes", "written_bytes",
    "kept_bytes", "checked_bytes",
)  # fmt: skip


class Meter:
    """Named sums. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(COUNTERS, 0)

    def add(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    def set(self, **values: int) -> None:
        with self._lock:
            self._sums.update(values)

    def read(self) -> dict[str, int]:
        with self._lock:
            return dict(self._sums)
