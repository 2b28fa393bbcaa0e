"""What `/metrics` shows, kept from one look at its sources to the next.

A source is asked at most every `every_s` seconds, however often somebody scrapes, and never while the caller waits,
but for the first time. One that fails leaves the others, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

disable_created_metrics()  # a second series for each counter and histogram, which nobody reads
log = logging.getLogger(__name__)
EVERY_S = 30.0
SOURCE_TIMEOUT_S = 20.0
FIRST_WAIT_S = 5.0
SAMPLES_MAX = 5000
_PROCESS = str(os.getpid())
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a gauge; the labels of a gauge are always the same ones."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """Where samples come from. `help` has a line for every gauge that it gives."""

    name: str
    help: dict[str, str]

    async def read(self) -> Sequence[Sample]:
        """Of now. Any error means that it could not be asked."""
        ...


@dataclass(slots=True)
class _Seen:
    samples: Sequence[Sample] = ()
    up: bool = False
    took_s: float = 0.0


@dataclass(slots=True)
class Requests:
    """The gateway's own requests. They are labelled by process: where several share a port, each scrape meets one of
    them, and a counter must not jump between theirs."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    total: Counter = field(init=False)
    seconds: Histogram = field(init=False)

    def __post_init__(self) -> None:
        self.total = Counter(
            "poorwill_api_requests", "Requests by route and status.", ("process", "method", "route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "poorwill_api_request_seconds", "From request to the end of the answer.", ("process", "method", "route"),
            buckets=BUCKETS_S, registry=self.registry,
        )  # fmt: skip

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        self.total.labels(_PROCESS, method, route, str(status)).inc()
        self.seconds.labels(_PROCESS, method, route).observe(seconds)


class Board(Collector):
    """The last look at every source. To be used in one event loop."""

    def __init__(
        self,
        sources: Sequence[Source],
        every_s: float = EVERY_S,
        timeout_s: float = SOURCE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources, self._every_s, self._timeout_s, self._clock = sources, every_s, timeout_s, clock
        self._seen = {source.name: _Seen() for source in sources}
        self._looked_s: float | None = None
        self._looking: asyncio.Task[None] | None = None

    async def fresh(self, wait_s: float = FIRST_WAIT_S) -> None:
        """Begin to look again, if the last look is too old; wait for that only if there was none."""
        idle = self._looking is None or self._looking.done()
        if idle and (self._looked_s is None or self._clock() - self._looked_s >= self._every_s):
            self._looking = asyncio.create_task(self._look(), name="metrics")
        if self._looked_s is None and self._looking is not None:
            await asyncio.wait({self._looking}, timeout=wait_s)

    async def settled(self) -> None:
        """When nothing is being looked at."""
        if self._looking is not None:
            await asyncio.wait({self._looking})

    async def close(self) -> None:
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait({looking})

    async def _look(self) -> None:
        await asyncio.gather(*(self._ask(source) for source in self._sources))
        self._looked_s = self._clock()

    async def _ask(self, source: Source) -> None:
        began_s = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                samples = (await source.read())[:SAMPLES_MAX]
            seen = _Seen(samples, True)
        except Exception as error:
            # What was seen before is not shown as if it were seen now.
            log.warning("metrics of %s: %s", source.name, type(error).__name__)
            seen = _Seen()
        seen.took_s = self._clock() - began_s
        self._seen[source.name] = seen

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client: gauges only, since all of them are counted where they are kept."""
        up = GaugeMetricFamily("poorwill_source_up", "Whether the last look at a source succeeded.", labels=("source",))
        took = GaugeMetricFamily("poorwill_source_seconds", "How long that look took.", labels=("source",))
        age = GaugeMetricFamily("poorwill_metrics_age_seconds", "How old what is shown here is.")
        for source in self._sources:
            seen = self._seen[source.name]
            up.add_metric((source.name,), float(seen.up))
            took.add_metric((source.name,), seen.took_s)
            yield from _families(source, seen.samples)
        if self._looked_s is not None:
            age.add_metric((), self._clock() - self._looked_s)
        yield from (up, took, age)


def _families(source: Source, samples: Iterable[Sample]) -> Iterable[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for sample in samples:
        names = tuple(name for name, _ in sample.labels)
        if sample.name not in families:
            families[sample.name] = GaugeMetricFamily(sample.name, source.help.get(sample.name, ""), labels=names)
        families[sample.name].add_metric(tuple(value for _, value in sample.labels), sample.value)
    return families.values()


def exposition(registries: Iterable[CollectorRegistry]) -> bytes:
    """The text format 0.0.4."""
    return b"".join(generate_latest(registry) for registry in registries)
