"""The count of the gateway's own requests."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import Scope

_PROCESS = str(os.getpid())
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
OTHER = "(other)"


class RequestCounts:
    """Labelled by process: where several share a port, each scrape reaches one of them, and a counter must not jump
    between theirs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.total = Counter(
            "poorwill_api_requests", "Requests by route and status.", ("process", "method", "route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "poorwill_api_request_seconds", "From request to the end of the answer.", ("process", "method", "route"),
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request under its route, never under its path: that would be a label for each run."""
        method = scope["method"] if scope["method"] in METHODS else OTHER
        route = getattr(scope.get("route"), "path", OTHER)
        self.total.labels(_PROCESS, method, route, str(status)).inc()
        self.seconds.labels(_PROCESS, method, route).observe(seconds)
