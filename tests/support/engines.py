"""Engines for tests: one on a thread of this process that can be interfered with, and one played by a script."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Any

from poorwill.codecs.toolset import Toolset
from poorwill.engine.operations import Operations
from poorwill.engine.pack.file_systems import FileSystems
from poorwill.engine.protocol import lines
from poorwill.engine.protocol.asking import Request
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.server import Server
from poorwill.remote.base import Channel
from poorwill.remote.local_host import SILENCE_S_MAX, LocalChannel, LocalHost

Hook = Callable[[Any], None]
"""Takes the request."""


class WatchedHost(LocalHost):
    """This machine, with the engine's process at hand, to kill it."""

    channel: LocalChannel

    def start(self) -> LocalChannel:
        self.channel = super().start()
        return self.channel

    def kill(self) -> None:
        self.channel.process.kill()
        self.channel.process.wait(30)


class ThreadHost:
    """Runs the engine on threads of this process.

    before, after: called with the request before the engine works on it, and before its result is told. toolset: what
    it codes with, instead of what this machine has. file_systems: how it flushes, and by what clock.
    """

    silence_s_max = SILENCE_S_MAX

    def __init__(
        self,
        before: dict[str, Hook] | None = None,
        after: dict[str, Hook] | None = None,
        toolset: Toolset | None = None,
        file_systems: FileSystems | None = None,
    ) -> None:
        os.umask(0)  # as the engine's own process does
        self.before, self.after = before or {}, after or {}
        self.operations = Operations(toolset, file_systems=file_systems)

    def describe(self) -> str:
        return "a thread"

    def start(self) -> Channel:
        return _PipeChannel(self._serve)

    def leave_workspace(self) -> None:
        """As if whoever goes on with the work had ended this engine's process."""
        self.operations._workspace.release()

    def _serve(self, requests: IO[bytes], events: IO[bytes]) -> None:
        def operation(request: Request[Any], context: Context) -> Any:
            self.before.get(request.op, _nothing)(request)
            result = self.operations.of(request)(request, context)
            self.after.get(request.op, _nothing)(request)
            return result

        try:
            Server(requests, events, lambda request: operation, self.operations.meter).run()
        finally:
            self.operations.close()


class ScriptedHost:
    """An engine that does what a script says: play(requests, events) on a thread; it ends when the script ends."""

    silence_s_max = SILENCE_S_MAX

    def __init__(self, play: Callable[[IO[bytes], IO[bytes]], None]) -> None:
        self._play = play

    def describe(self) -> str:
        return "a script"

    def start(self) -> Channel:
        return _PipeChannel(self._play)


def answering(lines: Iterable[bytes]) -> Callable[[IO[bytes], IO[bytes]], None]:
    """A script that reads one request, writes `lines`, and stays until it is closed."""

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        requests.readline()
        for line in lines:
            events.write(line)
        events.flush()
        while requests.readline():
            pass

    return play


def line(**fields: Any) -> bytes:
    return lines.encode(fields)


def _nothing(request: Request[Any]) -> None:
    return None


class _Writing:
    """The engine's end of a pipe. Unlike a process it survives the other end: what nobody reads is dropped."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb")

    def write(self, data: bytes) -> None:
        with suppress(OSError, ValueError):
            self._file.write(data)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError, ValueError):
            self._file.close()


class _PipeChannel:
    def __init__(self, serve: Callable[[IO[bytes], Any], None]) -> None:
        requests, self.requests = (os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        reading, writing = os.pipe()
        self.events = os.fdopen(reading, "rb")
        events = _Writing(writing)

        def run() -> None:
            try:
                with suppress(OSError, ValueError):
                    serve(requests, events)
            finally:
                events.close()
                requests.close()

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()

    def last_words(self) -> str:
        return ""

    def close(self, timeout_s: float = 10.0) -> None:
        with suppress(OSError):
            self.requests.close()
        self._thread.join(timeout_s)
