"""What reaching a machine promises: a channel to an engine that runs there.

Over SSH there are three smaller things: a Shell runs one command at a time (to look around and to install the engine),
a Stream is the bytes of one connection, and a Link (link/link.py) makes the one Channel that the engine's session needs
out of many streams, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Protocol

OUTPUT_BYTES_MAX = 256 << 10


class Channel(Protocol):
    """Two byte streams to one engine process, which ends when `requests` is closed.

    Both raise a PermanentError (HostRefused) when the machine turns out to be another one.
    """

    requests: IO[bytes]
    events: IO[bytes]

    def last_words(self) -> str:
        """The end of the engine's stderr, for error messages."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """End the engine, by force if it does not within `timeout_s`. Idempotent."""
        ...


class Host(Protocol):
    """A machine that can run an engine."""

    silence_s_max: float
    """After how long a silence its engine counts as lost: longer where connections are mended."""

    here: bool
    """Whether its paths are those of this computer."""

    def describe(self) -> str: ...

    def start(self) -> Channel:
        """Start an engine.

        EngineLost if the machine cannot be reached or the engine does not start, HostRefused if it is another
        machine than it was or does not let us in, HostUnfit if it lacks what an engine needs.
        """
        ...


class Stream(Protocol):
    """The two directions of one connection to a program on a machine. One reader, one writer."""

    def read(self, bytes_max: int, timeout_s: float) -> bytes:
        """Some bytes as soon as there are any; b"" at the end. TimeoutError, or OSError when it is broken."""
        ...

    def write(self, data: bytes, timeout_s: float) -> None:
        """All of `data`. TimeoutError, or OSError when it is broken; then it is unknown how much arrived."""
        ...

    def close(self) -> None:
        """Idempotent; does not wait, and wakes a reader."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended, with the first OUTPUT_BYTES_MAX of `stdout` and of `stderr`."""

    status: int
    stdout: bytes
    stderr: bytes


class Shell(Protocol):
    """Runs commands on a machine, in the syntax of `sh`."""

    def describe(self) -> str: ...

    def run(self, command: str, *, stdin: Iterable[bytes] = (), timeout_s: float) -> Finished:
        """Run it to its end. EngineLost when the connection breaks, DeadlineExceeded when the time is up."""
        ...
