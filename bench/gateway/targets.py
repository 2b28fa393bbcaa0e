"""What the HTTP API must reach, and whether a report says that it does."""

from __future__ import annotations

from collections.abc import Iterator

from bench.gateway.figures import Latencies, OnDatabase
from bench.page import Finding
from bench.report import Report

STATUS_P99_S_MAX, RUN_P99_S_MAX = 0.15, 0.5
GROWTH_MAX = 0.05
SETTLED = 4
"""Growth is counted from here: in its first shares of the requests, a process fills its caches."""


def findings(report: Report) -> Iterator[Finding]:
    """Every target of the gateway, on each database, measured or not."""
    for name, figures in (("SQLite", report.gateway.sqlite), ("PostgreSQL", report.gateway.postgresql)):
        yield from _on(name, figures, report)


def _on(name: str, figures: OnDatabase | None, report: Report) -> Iterator[Finding]:
    status = f"{name}: /status at 50 requests/s, p99"
    run = f"{name}: /run at 10 requests/s, p99"
    both = f"{name}: both at once, p99 of /status and of /run"
    memory = f"{name}: the gateway's memory over 20,000 requests"
    targets = (f"under {STATUS_P99_S_MAX * 1000:.0f} ms", f"under {RUN_P99_S_MAX * 1000:.0f} ms")
    flat = f"grows less than {GROWTH_MAX:.0%}"
    if figures is None:
        for what, target in ((status, targets[0]), (run, targets[1]), (both, "told"), (memory, flat)):
            yield Finding("gateway", what, target, report.why_not("poorwill"), None)
        return
    yield _latency(status, targets[0], figures.status, STATUS_P99_S_MAX)
    yield _latency(run, targets[1], figures.run, RUN_P99_S_MAX)
    value = f"{_shown(figures.both_status)}; {_shown(figures.both_run)}"
    yield Finding("gateway", both, "told", value, figures.both_status.failed + figures.both_run.failed == 0)
    share = growth(figures)
    value = f"{share:+.1%} ({figures.memory_bytes[SETTLED - 1] / 1e6:.0f} MB, {figures.memory_bytes[-1] / 1e6:.0f} MB)"
    value += f", {figures.memory_requests} requests at {figures.memory_rate_per_s:.0f}/s"
    yield Finding("gateway", memory, flat, value, share < GROWTH_MAX)


def growth(figures: OnDatabase) -> float:
    """As a share of the memory after share SETTLED of the requests."""
    return figures.memory_bytes[-1] / figures.memory_bytes[SETTLED - 1] - 1


def _latency(what: str, target: str, latencies: Latencies, p99_s_max: float) -> Finding:
    met = latencies.failed == 0 and latencies.p99_s < p99_s_max
    return Finding("gateway", what, target, _shown(latencies), met)


def _shown(latencies: Latencies) -> str:
    failed = f"; {latencies.failed} FAILED" if latencies.failed else ""
    return (
        f"{latencies.p99_s * 1000:.0f} ms (median {latencies.p50_s * 1000:.0f}, most {latencies.most_s * 1000:.0f}), "
        f"{latencies.requests} requests{failed}"
    )
