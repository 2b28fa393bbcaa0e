"""What reaching a machine promises: a channel to an engine that runs there."""

from __future__ import annotations

from typing import IO, Protocol


class Channel(Protocol):
    """Two byte streams to one engine process. When `requests` closes, the engine ends by itself."""

    requests: IO[bytes]
    events: IO[bytes]

    def last_words(self) -> str:
        """The end of what the engine wrote to stderr; for errors."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """End the engine, by force if it does not within `timeout_s`. Idempotent."""
        ...


class Host(Protocol):
    """A machine that can run an engine."""

    def describe(self) -> str: ...

    def start(self) -> Channel:
        """Start an engine. EngineLost if the machine cannot be reached or the engine does not start."""
        ...
