"""Health over HTTP, for load balancers and supervisors: GET /health.

200 {"status": "loading" | "ready" | "busy", ...}, 503 {"status": "failed", ...}: no lane can take a run, or the
worker has not reached its server for long. `lanes` holds the status of each lane.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker.lane import Lane

REQUEST_TIMEOUT_S = 5.0


def summary(lanes: tuple[Lane, ...], *, polling: bool, draining: bool) -> dict[str, Any]:
    """What /health answers. Control lanes count only where there are no others."""
    shown = [lane.describe() for lane in lanes]
    asked = [lane for lane in lanes if lane.kind == "gpu"] or list(lanes)
    states = {lane.status for lane in asked}
    if not polling or states == {"failed"}:
        status = "failed"
    elif states & {"ready", "cold"}:
        status = "ready"
    else:
        status = "loading" if "loading" in states else "busy"
    return {"status": status, "polling": polling, "draining": draining, "lanes": shown}


class HealthServer:
    """Answers from its own thread, also while the worker's event loop is busy. `with` starts and stops it."""

    def __init__(self, address: tuple[str, int], look: Callable[[], dict[str, Any]]) -> None:
        """OSError if the address cannot be bound."""

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                found = look() if self.path.split("?")[0] == "/health" else None
                body = json.dumps(found if found is not None else {"message": "GET /health"}).encode()
                code = 404 if found is None else 503 if found["status"] == "failed" else 200
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                """Probes are not logged."""

        self._server = ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    def __enter__(self) -> HealthServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(REQUEST_TIMEOUT_S)
