"""What the row `gateway` gave: plain figures, kept in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of requests at a constant rate, in seconds from the time that each was planned for."""

    requests: int
    rate_per_s: float
    p50_s: float
    p99_s: float
    most_s: float
    failed: int

    @classmethod
    def of(cls, latencies_s: Sequence[float], rate_per_s: float, failed: int) -> Latencies:
        ordered = sorted(latencies_s)
        return cls(len(ordered), rate_per_s, _share(ordered, 0.5), _share(ordered, 0.99), ordered[-1], failed)


def _share(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]


@dataclass(frozen=True, slots=True)
class OnDatabase:
    """One database behind Prefect's server. `memory_bytes` is the gateway's RSS after each of equal shares of
    `memory_requests` requests."""

    past_runs: int
    status: Latencies
    run: Latencies
    both_status: Latencies
    both_run: Latencies
    memory_requests: int
    memory_bytes: tuple[int, ...]
    memory_rate_per_s: float


@dataclass(slots=True)
class GatewayFigures:
    """None for a database that was not measured."""

    sqlite: OnDatabase | None = None
    postgresql: OnDatabase | None = None
