"""The wish that the work of this process stops, said by one thread and heard by another."""

from __future__ import annotations

import threading

from poorwill.errors import Cancelled, PoorwillError


class Stop:
    """A flag with a reason. Thread-safe; asking costs less than a microsecond."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._error: PoorwillError = Cancelled("cancelled")

    def request(self, reason: str, kind: type[PoorwillError] = Cancelled) -> None:
        """Ask for it. The first reason, and the kind of error it is, stay until `clear`."""
        with self._lock:
            if not self._asked.is_set():
                self._error = kind(reason or "cancelled")
                self._asked.set()

    def clear(self) -> None:
        """Forget what was asked, before the next run begins."""
        with self._lock:
            self._asked.clear()

    @property
    def requested(self) -> bool:
        return self._asked.is_set()

    def check(self) -> None:
        """Cancelled, or the kind that was asked for, with the reason; nothing if nobody asked."""
        if self._asked.is_set():
            raise self._error


STOP = Stop()
"""Of this process, which works on one run at a time."""
