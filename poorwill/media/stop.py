"""The request that work stops: made by one thread, seen by another."""

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
        """Ask the work to stop. The first reason, and the kind of error it is, stay until `clear`."""
        with self._lock:
            if not self._asked.is_set():
                self._error = kind(reason or "cancelled")
                self._asked.set()

    def clear(self) -> None:
        """Forget the request, before the next run begins."""
        with self._lock:
            self._asked.clear()

    def check(self) -> None:
        """Raise Cancelled, or the kind that was asked for, with the reason; nothing without a request."""
        if self._asked.is_set():
            raise self._error
