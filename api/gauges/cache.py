"""The gauges of `/metrics`, kept from one reading of their sources to the next.

A source is asked at most every `every_s` seconds, however often `/metrics` is scraped, and a scrape waits for it only
the first time. One that fails does not stop the others, and is shown as failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.http.limits import within

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter and histogram
log = logging.getLogger(__name__)
EVERY_S = 30.0
SOURCE_TIMEOUT_S = 20.0
FIRST_WAIT_S = 5.0
SAMPLES_MAX = 5000


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a gauge. All samples of a gauge have the same labels."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples come from. `read` gives the present ones; any error means that the source could not be asked.
    `help` has a line for each of its gauges."""

    name: str
    read: Callable[[], Awaitable[Sequence[Sample]]]
    help: dict[str, str]


@dataclass(slots=True)
class _Seen:
    samples: Sequence[Sample] = ()
    up: bool = False
    took_s: float = 0.0


class GaugeCache(Collector):
    """The last reading of every source. Belongs to one event loop."""

    def __init__(
        self,
        sources: Sequence[Source],
        every_s: float = EVERY_S,
        timeout_s: float = SOURCE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources, self._every_s, self._timeout_s, self._clock = sources, every_s, timeout_s, clock
        self._seen = {source.name: _Seen() for source in sources}
        self._read_s: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self, wait_s: float = FIRST_WAIT_S) -> None:
        """Begin to read again if the last reading is too old; wait for it only if it is the first one."""
        idle = self._reading is None or self._reading.done()
        if idle and (self._read_s is None or self._clock() - self._read_s >= self._every_s):
            self._reading = asyncio.create_task(self._read(), name="metrics")
        if self._read_s is None and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=wait_s)

    async def settled(self) -> None:
        """Wait for the reading under way."""
        if self._reading is not None:
            await asyncio.wait({self._reading})

    async def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self) -> None:
        await asyncio.gather(*(self._ask(source) for source in self._sources))
        self._read_s = self._clock()

    async def _ask(self, source: Source) -> None:
        began_s = self._clock()
        try:
            samples = await within(self._timeout_s, source.read())
            seen = _Seen(samples[:SAMPLES_MAX], True)
        except Exception as error:
            # Its last samples are dropped, not shown as if they were new.
            log.warning("metrics of %s: %s", source.name, type(error).__name__)
            seen = _Seen()
        seen.took_s = self._clock() - began_s
        self._seen[source.name] = seen

    def collect(self) -> Iterable[Metric]:
        """The samples as gauges, and how the readings went."""
        up = GaugeMetricFamily(
            "poorwill_source_up", "Whether the last reading of a source succeeded.", labels=("source",)
        )
        took = GaugeMetricFamily("poorwill_source_seconds", "How long that reading took.", labels=("source",))
        age = GaugeMetricFamily("poorwill_metrics_age_seconds", "Age of the gauges shown here.")
        for source in self._sources:
            seen = self._seen[source.name]
            up.add_metric((source.name,), float(seen.up))
            took.add_metric((source.name,), seen.took_s)
            yield from _families(source, seen.samples)
        if self._read_s is not None:
            age.add_metric((), self._clock() - self._read_s)
        yield from (up, took, age)


def _families(source: Source, samples: Iterable[Sample]) -> Iterable[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for sample in samples:
        names = tuple(name for name, _ in sample.labels)
        if sample.name not in families:
            families[sample.name] = GaugeMetricFamily(sample.name, source.help.get(sample.name, ""), labels=names)
        families[sample.name].add_metric(tuple(value for _, value in sample.labels), sample.value)
    return families.values()
