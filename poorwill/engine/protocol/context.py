"""What a running request carries: its deadline, its cancellation, and its ways to the control side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from poorwill.engine.protocol.asking import Ask, Question
from poorwill.engine.protocol.lines import DEADLINE_S_DEFAULT
from poorwill.errors import Cancelled, DeadlineExceeded


def _nobody(question: Question[Any]) -> Any:
    raise Cancelled(f"nobody answers '{question.name}'")


class Context:
    """A request being worked on: `ask` asks the control side, `send_page` sends a piece of a manifest. Thread-safe."""

    def __init__(
        self,
        what: str,
        deadline_s: float = DEADLINE_S_DEFAULT,
        ask: Ask = _nobody,
        send_page: Callable[[bytes], None] = lambda page: None,
    ) -> None:
        self.what, self.deadline_s, self.ask, self.send_page = what, deadline_s, ask, send_page
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
