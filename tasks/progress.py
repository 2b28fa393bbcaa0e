"""Progress artifacts: percentages and times to go in Prefect's UI while a run works, from its counters."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

log = logging.getLogger(__name__)
SAMPLE_S = 0.25
UPDATE_S = 1.0
JOIN_TIMEOUT_S = 15.0
Counters = dict[str, int]
Measure = Callable[[Counters], float]


def packing(pack_bytes: int) -> dict[str, Measure]:
    """What is shown while parts are packed; `pack_bytes` is how much there is to read."""

    def compressed(counters: Counters) -> float:
        return _percent(counters.get("read_bytes", 0), pack_bytes)

    def uploaded(counters: Counters) -> float:
        # How much there will be to send is not known before it is coded: scaled by what was coded so far.
        coded = counters.get("coded_bytes", 0)
        return compressed(counters) * min(1.0, counters.get("sent_bytes", 0) / coded) if coded else 0.0

    return {"compressed": compressed, "uploaded": uploaded}


def restoring(fetch_bytes_max: int, raw_bytes: int) -> dict[str, Measure]:
    """What is shown while parts are restored. What need not be downloaded after all counts as if it were."""

    def restored(counters: Counters) -> float:
        return _percent(counters.get("written_bytes", 0) + counters.get("kept_bytes", 0), raw_bytes)

    def downloaded(counters: Counters) -> float:
        fetched = counters.get("fetched_bytes", 0) + counters.get("cached_bytes", 0)
        return max(_percent(fetched, fetch_bytes_max), restored(counters))

    return {"downloaded": downloaded, "restored": restored}


def generating(steps: int) -> dict[str, Measure]:
    """What is shown while a video is generated: denoising steps, then encoded frames."""
    return {
        "denoised": lambda counters: _percent(counters.get("steps", 0), steps),
        "encoded": lambda counters: _percent(counters.get("frames", 0), counters.get("frames_all", 0) or 1),
    }


def _percent(part: int, whole: int) -> float:
    return min(100.0, 100.0 * part / whole) if whole > 0 else 100.0


class Progress:
    """`with Progress(sample, measures):` keeps one artifact per measure up to date, with the time it has to go.

    A thread of its own asks `sample` for the counters and talks to Prefect, every `update_s`; neither what counts
    nor the flow wait for it. When Prefect does not answer, progress is not shown, and nothing else happens.
    """

    def __init__(
        self,
        sample: Callable[[], Counters],
        measures: dict[str, Measure],
        create: Callable[..., Any] = create_progress_artifact,
        update: Callable[..., Any] = update_progress_artifact,
        clock: Callable[[], float] = time.monotonic,
        update_s: float = UPDATE_S,
        counts: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        """`counts`: measure -> a counter and how far it goes, to be shown as well: `denoised 3/30`."""
        self._sample, self._measures, self._counts = sample, measures, counts or {}
        self._create, self._update, self._clock, self._update_s = create, update, clock, update_s
        self._artifacts: dict[str, UUID] = {}
        self._shown: dict[str, float] = {}
        self._first: dict[str, tuple[float, float]] = {}  # when, and at how many percent, it was first above nothing
        self._stopped = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(JOIN_TIMEOUT_S)

    def _watch(self) -> None:
        for name in self._measures:
            try:
                self._artifacts[name] = self._create(progress=0.0, key=name, description=name)
            except Exception as error:
                log.warning("progress is not shown: %s", type(error).__name__)
        since_update = 0.0
        while not self._stopped.wait(SAMPLE_S):
            counters = self._sample()
            since_update += SAMPLE_S
            if since_update >= self._update_s:
                self._show(counters)
                since_update = 0.0
        self._show(self._sample())

    def _show(self, counters: Counters) -> None:
        for name, artifact in self._artifacts.items():
            percent = round(self._measures[name](counters), 1)
            if percent == self._shown.get(name):
                continue
            try:
                description = self._counted(name, counters) + self._to_go(name, percent)
                self._update(artifact_id=artifact, progress=percent, description=description)
                self._shown[name] = percent
            except Exception as error:
                log.warning("progress is not shown: %s", type(error).__name__)

    def _counted(self, name: str, counters: Counters) -> str:
        if name not in self._counts:
            return name
        counter, last = self._counts[name]
        return f"{name} {min(counters.get(counter, 0), last)}/{last}"

    def _to_go(self, name: str, percent: float) -> str:
        """The time that a measure has to go, at the rate it had since it was first seen above nothing."""
        if not 0 < percent < 100:
            return ""
        now_s = self._clock()
        began_s, first = self._first.setdefault(name, (now_s, percent))
        if percent <= first:
            return ""
        return f"; {(now_s - began_s) * (100 - percent) / (percent - first):.0f} s to go"
