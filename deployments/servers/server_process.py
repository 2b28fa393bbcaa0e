"""Servers that a process starts for itself, waits for, and stops; they never outlive it."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import Self

from deployments.servers import child_process
from deployments.servers.loopback import free_port, port_is_free
from poorwill.errors import DeadlineExceeded, PoorwillError, UsageError

START_ATTEMPTS_MAX = 5
_POLL_S = 0.05


class ServerProcess(ABC):
    """One process. `with` starts it and stops it; both can be done again, and in other threads.

    title: what messages call it. log_path: what it writes is added there; its folder is made.
    """

    stop_timeout_s: ClassVar[float] = child_process.STOP_TIMEOUT_S

    def __init__(self, title: str, log_path: Path, start_timeout_s: float) -> None:
        self.log_path = log_path
        self._title, self._start_timeout_s = title, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None when it is not running."""
        return self._process.pid if self._process is not None else None

    @abstractmethod
    def start(self) -> Self:
        """Start it, and wait until it answers. PoorwillError with the end of its log, DeadlineExceeded."""

    def stop(self) -> int | None:
        """SIGTERM, and SIGKILL after `stop_timeout_s`. Returns its exit status, None if it did not run. Idempotent.

        It also ends a `start` in another thread, which raises PoorwillError.
        """
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would look. Idempotent."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop it if it runs, and start it again."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start_once(
        self, command: Sequence[str], environment: Mapping[str, str], answers: Callable[[], bool], where: str = ""
    ) -> bool:
        """Whether it answers; False if it ended by itself. PoorwillError, DeadlineExceeded."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            process = self._process = child_process.start(
                command, environment=environment, log_path=self.log_path, name=self._title
            )
        except OSError as error:
            raise PoorwillError(f"{self._title} could not be started: {error}") from error
        try:
            ends_s = time.monotonic() + self._start_timeout_s
            while time.monotonic() < ends_s:
                answered = answers()
                # Looked at after the answer: on a port that was taken meanwhile, another server has given it.
                if process.poll() is not None:
                    break
                if answered:
                    return True
                time.sleep(_POLL_S)
            else:
                raise DeadlineExceeded(
                    f"{self._title} did not answer{where} in {self._start_timeout_s:g} s: {self._last_line()}"
                )
        except BaseException:
            self.kill()
            raise
        if self._process is None:
            raise PoorwillError(f"{self._title} was stopped before it had started")
        self._process = None
        return False

    def _last_line(self) -> str:
        return child_process.last_line(self.log_path)

    def _end(self, how: signal.Signals) -> int | None:
        process, self._process = self._process, None
        return child_process.end(process, how, self.stop_timeout_s) if process is not None else None


class LoopbackServer(ServerProcess):
    """One that listens on 127.0.0.1: on the port it was given, else on one that is free. It keeps that port."""

    def __init__(self, title: str, log_path: Path, start_timeout_s: float, port: int | None) -> None:
        super().__init__(title, log_path, start_timeout_s)
        self._port = port

    @property
    def base_url(self) -> str:
        """http://127.0.0.1:<port>; known once it was started."""
        if self._port is None:
            raise UsageError(f"{self._title} has no port before it is started")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Start it, and wait until it answers. PoorwillError with the end of its log, DeadlineExceeded."""
        if self._process is not None:
            raise UsageError(f"{self._title} is already running at {self.base_url}")
        if self._port is not None and not port_is_free(self._port):
            raise PoorwillError(f"port {self._port} of 127.0.0.1 is in use: end what uses it, or choose another")
        # A port found free can be taken before the server binds it.
        for _ in range(START_ATTEMPTS_MAX if self._port is None else 1):
            if self._start_on(self._port or free_port()):
                return self
        raise PoorwillError(f"{self._title} did not start: {self._last_line()}")

    def _start_on(self, port: int) -> bool:
        command, environment = self._launch(port)
        started = self._start_once(command, environment, lambda: self._answers(port), f" on 127.0.0.1:{port}")
        if started:
            self._port = port
        return started

    @abstractmethod
    def _launch(self, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """The command that serves on that port, and its environment."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Whether it serves on that port now."""
