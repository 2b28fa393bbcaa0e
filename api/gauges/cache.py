"""The gauges of `/metrics`, kept from one reading of their sources to the next.

A source is asked at most every `every_s` seconds, however often `/metrics` is scraped, and a scrape waits for it only
the first time. One that fails does not stop the others, and is shown as failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.http.limits import within

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter and histogram
log = logging.getLogger(__name__)
SAMPLES_MAX = 5000


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a gauge. All samples of a gauge have the same labels."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


Source = Callable[[], Awaitable[Sequence[Sample]]]
"""Gives the present samples; any error means that it could not be asked."""


@dataclass(slots=True)
class _Seen:
    samples: Sequence[Sample] = ()
    up: bool = False
    took_s: float = 0.0


class GaugeCache(Collector):
    """The last reading of every source. `help` has a line for each gauge. Belongs to one event loop."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        help: Mapping[str, str],
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources, self._help, self._every_s, self._clock = sources, help, every_s, clock
        self._seen = {name: _Seen() for name in sources}
        self._read_s: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Begin to read again if the last reading is too old; wait for it only if it is the first one."""
        idle = self._reading is None or self._reading.done()
        if idle and (self._read_s is None or self._clock() - self._read_s >= self._every_s):
            self._reading = asyncio.create_task(self._read(), name="metrics")
        if self._read_s is None and self._reading is not None:
            await asyncio.wait({self._reading}, timeout=5.0)

    async def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self) -> None:
        await asyncio.gather(*(self._ask(name, source) for name, source in self._sources.items()))
        self._read_s = self._clock()

    async def _ask(self, name: str, source: Source) -> None:
        began_s = self._clock()
        try:
            samples = await within(20.0, source())
            seen = _Seen(samples[:SAMPLES_MAX], True)
        except Exception as error:
            # Its last samples are dropped, not shown as if they were new.
            log.warning("metrics of %s: %s", name, type(error).__name__)
            seen = _Seen()
        seen.took_s = self._clock() - began_s
        self._seen[name] = seen

    def collect(self) -> Iterable[Metric]:
        """The samples as gauges, and how the readings went."""
        up = GaugeMetricFamily(
            "poorwill_source_up", "Whether the last reading of a source succeeded.", labels=("source",)
        )
        took = GaugeMetricFamily("poorwill_source_seconds", "How long that reading took.", labels=("source",))
        age = GaugeMetricFamily("poorwill_metrics_age_seconds", "Age of the gauges shown here.")
        families: dict[str, GaugeMetricFamily] = {}
        for name, seen in self._seen.items():
            up.add_metric((name,), float(seen.up))
            took.add_metric((name,), seen.took_s)
            for sample in seen.samples:
                labels, of = dict(sample.labels), sample.name
                if of not in families:
                    families[of] = GaugeMetricFamily(of, self._help.get(of, ""), labels=tuple(labels))
                families[of].add_metric(tuple(labels.values()), sample.value)
        if self._read_s is not None:
            age.add_metric((), self._clock() - self._read_s)
        yield from (*families.values(), up, took, age)
