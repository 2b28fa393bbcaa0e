"""The request that work stops: made by one thread, seen by another."""

from __future__ import annotations

import threading

from poorwill.errors import Cancelled, PoorwillError


class Stop:
    """A flag with a reason. Thread-safe; asking costs less than a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: PoorwillError | None = None

    def request(self, reason: str, kind: type[PoorwillError] = Cancelled) -> None:
        """Ask the work to stop. The first reason, and the kind of error it is, stay until `clear`."""
        with self._lock:
            if self._error is None:
                self._error = kind(reason or "cancelled")

    def clear(self) -> None:
        """Forget the request, before the next run begins."""
        with self._lock:
            self._error = None

    def check(self) -> None:
        """Raise Cancelled, or the kind that was asked for, with the reason; nothing without a request."""
        if (error := self._error) is not None:
            raise error
