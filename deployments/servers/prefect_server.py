"""A real Prefect server on loopback with its own SQLite database, for the demo and the tests.

    with PrefectServer(directory) as server, server.settings():
        my_flow()

It takes nothing from the user's Prefect profile or environment, sends nothing to anybody, and ends with
the process that started it, however that process ends. It is not meant to face a network.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from deployments.servers import loopback
from deployments.servers.server_process import LoopbackServer

START_TIMEOUT_S = 120.0
"""About 5 s on an idle machine; tests share two cores."""
REQUEST_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 10.0
# Loops that look for work of workers, schedules and deployments: nothing here has any, and each costs a core's time.
_SERVICES_OFF = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP")


def serve_command(host: str, port: int) -> list[str]:
    """uvicorn itself and not `prefect server start`, which puts another process in between."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    return [*command, "--host", host, "--port", str(port), "--log-level", "warning", "--timeout-keep-alive", "5"]


def client_environment(api_url: str, home: Path) -> dict[str, str]:
    """What makes a process use that server, and send nothing to anybody else."""
    return {
        "PREFECT_API_URL": api_url,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "DO_NOT_TRACK": "1",
    }


def sqlite_url(home: Path) -> str:
    """The database of a server that has no other."""
    return f"sqlite+aiosqlite:///{home / 'prefect.db'}"


def server_environment(api_url: str, home: Path) -> dict[str, str]:
    """What a server at that address needs beside `client_environment`; everything that it keeps is below `home`."""
    return {
        # The block types of all of Prefect's collections: ten of fifteen seconds. Saving a block registers its own.
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_UI_API_URL": api_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


class PrefectServer(LoopbackServer):
    """One server process. `with PrefectServer(directory) as server:` starts it and stops it.

    `directory` holds its database, its log `server.log` and what Prefect keeps at home; the same directory
    gives the same runs and blocks again, also after `restart()` and `kill()`. The port stays the same once
    started. `ui`: also serve the web pages. `events_at_once`: events can be read half a second after they were sent,
    and not after five, for which a database pays. `database_url`: another database than SQLite's, as SQLAlchemy names
    it (`postgresql+asyncpg://...`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int | None = None,
        ui: bool = False,
        events_at_once: bool = False,
        database_url: str | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.directory = Path(directory).resolve()
        super().__init__("the Prefect server", self.directory / "server.log", start_timeout_s, port)
        self.database_url = database_url or sqlite_url(self.directory)
        self._more = {"PREFECT_UI_ENABLED": str(ui).lower(), "PREFECT_API_DATABASE_CONNECTION_URL": self.database_url}
        self._more |= {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _SERVICES_OFF}
        if events_at_once:
            self._more["PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL"] = "0.5"

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL has to be; known once started."""
        return f"{self.base_url}/api"

    def env(self) -> dict[str, str]:
        """What a child process needs in its environment to use this server and nothing else."""
        return client_environment(self.api_url, self.directory)

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

    def _launch(self, port: int) -> tuple[list[str], dict[str, str]]:
        api_url = f"http://127.0.0.1:{port}/api"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = client_environment(api_url, self.directory) | server_environment(api_url, self.directory)
        return serve_command("127.0.0.1", port), {**kept, **environment, **self._more}

    def _answers(self, port: int) -> bool:
        try:
            with loopback.get(f"http://127.0.0.1:{port}/api/health", REQUEST_TIMEOUT_S):
                return True
        except OSError:
            return False


def _send_what_waits() -> None:
    """Logs and events are sent from background threads: they go before the server does."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DRAIN_TIMEOUT_S)
