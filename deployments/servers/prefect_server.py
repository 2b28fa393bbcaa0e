"""A real Prefect server on loopback with its own SQLite database, for the demo and the tests.

    with PrefectServer(directory) as server, server.settings():
        my_flow()

It takes nothing from the user's Prefect profile or environment, sends nothing to anybody, and ends with
the process that started it, however that process ends. It is not meant to face a network.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from deployments.servers import child_process

START_ATTEMPTS_MAX = 3
START_TIMEOUT_S = 120.0
"""About 5 s on an idle machine; tests share two cores."""
REQUEST_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 10.0
_POLL_S = 0.1
# Loops that look for work of workers, schedules and deployments: nothing here has any, and each costs a core's time.
_SERVICES_OFF = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP")


class PrefectServerError(Exception):
    """The server could not be started. One line."""


def serve_command(host: str, port: int) -> list[str]:
    """uvicorn itself and not `prefect server start`, which puts another process in between."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    return [*command, "--host", host, "--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "5"]


class PrefectServer:
    """One server process. `with PrefectServer(directory) as server:` starts it and stops it.

    `directory` holds its database, its log `server.log` and what Prefect keeps at home; the same directory
    gives the same runs and blocks again, also after `restart()` and `kill()`. The port stays the same once
    started. `ui`: also serve the web pages. `services`: run the scheduler and the other loops of a full server, and
    know the block types of all of Prefect's collections. `events_at_once`: events can be read half a second after they
    were told, and not after five, for which a database pays. `database_url`: another database than SQLite's, as
    SQLAlchemy names it (`postgresql+asyncpg://...`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int | None = None,
        ui: bool = False,
        services: bool = False,
        events_at_once: bool = False,
        database_url: str | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.log_path = self.directory / "server.log"
        self._port = port
        self._ui = ui
        self._services, self._events_at_once = services, events_at_once
        self.database_url = database_url or f"sqlite+aiosqlite:///{self.directory / 'prefect.db'}"
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ui_url(self) -> str:
        """http://127.0.0.1:<port>; known once started."""
        if self._port is None:
            raise PrefectServerError("the Prefect server has no port before it is started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL has to be; known once started."""
        return f"{self.ui_url}/api"

    @property
    def pid(self) -> int | None:
        """The server's process id, None when it is not running."""
        return self._process.pid if self._process is not None else None

    def env(self) -> dict[str, str]:
        """What a child process needs in its environment to use this server and nothing else."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.directory),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "DO_NOT_TRACK": "1",
        }

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Within it, Prefect in this process uses this server.

        Without the heartbeat, whose thread costs every run a second when it is joined: it is there for
        machines that vanish, and this server vanishes with us.
        """
        from prefect.settings import (
            PREFECT_API_KEY,
            PREFECT_API_URL,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            PREFECT_HOME,
            PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW,
            temporary_settings,
        )

        mine = {
            PREFECT_API_URL: self.api_url,
            PREFECT_HOME: self.directory,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore",
        }
        with temporary_settings(mine, restore_defaults={PREFECT_API_KEY}):
            try:
                yield
            finally:
                _send_what_waits()

    def start(self) -> PrefectServer:
        """Start, and wait until it is healthy. Raises PrefectServerError with the end of its log."""
        if self._process is not None:
            raise PrefectServerError(f"the Prefect server is already running at {self.ui_url}")
        if self._port is not None and not child_process.port_is_free(self._port):
            raise PrefectServerError(f"port {self._port} of 127.0.0.1 is in use: end what uses it, or choose another")
        self.directory.mkdir(parents=True, exist_ok=True)
        # A port found free can be taken before the server binds it; one that was given is kept.
        attempts = 1 if self._port is not None else START_ATTEMPTS_MAX
        for _ in range(attempts):
            port = self._port or child_process.free_port()
            process = self._process = self._spawn(port)
            try:
                healthy = self._wait_until_healthy(process, port)
            except BaseException:
                self.kill()
                raise
            if healthy:
                self._port = port
                return self
            if self._process is None:
                raise PrefectServerError("the Prefect server was stopped before it had started")
            self._process = None
        end = child_process.last_line(self.log_path)
        raise PrefectServerError(f"the Prefect server did not start on 127.0.0.1:{port}: {end}")

    def stop(self) -> None:
        """Ask it to end, then make it. Idempotent; also ends a `start` in another thread."""
        self._end_with(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would look. Idempotent."""
        self._end_with(signal.SIGKILL)

    def restart(self) -> PrefectServer:
        """Stop if running, and start again on the same port with the same database."""
        self.stop()
        return self.start()

    def __enter__(self) -> PrefectServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        command = serve_command("127.0.0.1", port)
        try:
            return child_process.start(
                command, environment=self._server_environment(port), log_path=self.log_path, name=f"prefect-{port}"
            )
        except OSError as error:
            raise PrefectServerError(f"the Prefect server could not be started: {error}") from error

    def _server_environment(self, port: int) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        api_url = f"http://127.0.0.1:{port}/api"
        settings = {
            "HOME": str(self.directory),
            "API_URL": api_url,
            "API_DATABASE_CONNECTION_URL": self.database_url,
            "SERVER_ANALYTICS_ENABLED": "false",
            "CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "UI_ENABLED": str(self._ui).lower(),
            "UI_API_URL": api_url,
            "UI_STATIC_DIRECTORY": str(self.directory / "ui"),
            "SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "LOGGING_LEVEL": "WARNING",
        }
        if not self._services:
            # The block types of all of Prefect's collections: ten of fifteen seconds. Saving a block registers its own.
            settings["API_BLOCKS_REGISTER_ON_START"] = "false"
            settings.update({f"SERVER_SERVICES_{name}_ENABLED": "false" for name in _SERVICES_OFF})
        if self._events_at_once:
            settings["SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL"] = "0.5"
        return {**kept, **{f"PREFECT_{name}": value for name, value in settings.items()}, "DO_NOT_TRACK": "1"}

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """False if it ended by itself; PrefectServerError if it lives and never answers."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            # Looked at after the answer too: on a port that was taken, somebody else would have given it.
            healthy = _healthy(opener, f"http://127.0.0.1:{port}/api/health")
            if process.poll() is not None:
                return False
            if healthy:
                return True
            time.sleep(_POLL_S)
        end = child_process.last_line(self.log_path)
        raise PrefectServerError(
            f"the Prefect server did not answer on 127.0.0.1:{port} in {self._start_timeout_s:g} s: {end}"
        )

    def _end_with(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            child_process.end(process, how)


def _healthy(opener: urllib.request.OpenerDirector, url: str) -> bool:
    try:
        with opener.open(url, timeout=REQUEST_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _send_what_waits() -> None:
    """Logs and events are sent from background threads: they go before the server does."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DRAIN_TIMEOUT_S)
