"""python -m api: the gateway's server process, with one worker process or several."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

import uvicorn
from prefect.settings import PREFECT_API_URL

from api.http.auth import Guard
from api.settings import Settings
from poorwill.errors import UsageError

PORT = 8000
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": "api.http.middleware.RequestIdFilter"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
            "filters": ["request"],
            "formatter": "line",
        }
    },
    "loggers": {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False} for name in ("api", "poorwill", "uvicorn")
    },
}


def main() -> int:
    """Returns the exit code: 2, and one line, for settings that are wrong."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__, epilog="Settings: see docs/api.md.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default {PORT})")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port (default 1)")
    parser.add_argument("--quiet", action="store_true", help="log no line for each request")
    given = parser.parse_args()
    if not 0 <= given.port <= 65535:
        parser.error("--port is 0 to 65535")
    if not 1 <= given.workers <= 64:
        parser.error("--workers is 1 to 64")
    try:
        settings = Settings.read()
        Guard(settings)
        if not PREFECT_API_URL.value():
            raise UsageError("PREFECT_API_URL is not set: set it to the API of a Prefect server, http://host:4200/api")
    except UsageError as error:
        print(f"api: {error.message}", file=sys.stderr)
        return 2
    logging.captureWarnings(True)
    if given.quiet:
        LOGGING["loggers"]["api.http.middleware"] = {"level": "WARNING"}
    uvicorn.run(
        "api.app:app",
        host=given.host,
        port=given.port,
        workers=given.workers,
        log_config=LOGGING,
        access_log=False,  # api.http.middleware logs requests, without their query
        server_header=False,
        limit_concurrency=1000 + settings.streams_max,  # more are refused before they are read
        timeout_graceful_shutdown=10,
        ws_max_size=4096,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
