"""What a running request carries: its deadline, its cancellation, and a way to ask the control side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from poorwill.errors import Cancelled, DeadlineExceeded

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def _nobody(question: str, facts: dict[str, Any]) -> dict[str, Any]:
    raise Cancelled(f"nobody answers '{question}'")


class Context:
    """One request being worked on. Thread-safe."""

    def __init__(self, what: str, deadline_s: float = 86400.0, ask: Ask = _nobody) -> None:
        self.what = what
        self.deadline_s = deadline_s
        self.ask = ask
        self._ends = time.monotonic() + deadline_s
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        """Cancelled or DeadlineExceeded if the request should stop."""
        if self._cancelled.is_set():
            raise Cancelled(f"{self.what} was cancelled")
        if time.monotonic() > self._ends:
            raise DeadlineExceeded(f"{self.what} did not end within {self.deadline_s:.0f} s")

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a cancellation."""
        self._cancelled.wait(seconds)
        self.check()
