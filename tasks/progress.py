"""Progress artifacts: percentages and times to go in Prefect's UI while a run works, from its counters."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from poorwill.runs import Progress

log = logging.getLogger(__name__)
SAMPLE_S = 0.25
UPDATE_S = 1.0
JOIN_TIMEOUT_S = 15.0
Counters = dict[str, int]
Measure = Callable[[Counters], list[Progress]]


def packing(pack_bytes: int, counters: Counters) -> list[Progress]:
    """What is shown while parts are packed; `pack_bytes` is how much there is to read."""
    compressed = Progress("compressed", counters.get("read_bytes", 0), pack_bytes, "bytes")
    # How much there will be to send is not known before it is coded: scaled by what was coded so far.
    coded = counters.get("coded_bytes", 0)
    sent = min(1.0, counters.get("sent_bytes", 0) / coded) if coded else 0.0
    return [compressed, Progress("uploaded", round(compressed.percent * sent, 1))]


def restoring(fetch_bytes_max: int, raw_bytes: int, counters: Counters) -> list[Progress]:
    """What is shown while parts are restored. What need not be downloaded after all counts as if it were."""
    written = counters.get("written_bytes", 0) + counters.get("kept_bytes", 0)
    fetched = counters.get("fetched_bytes", 0) + counters.get("cached_bytes", 0)
    restored = Progress("restored", written, raw_bytes, "bytes")
    downloaded = Progress("downloaded", fetched, fetch_bytes_max, "bytes")
    if downloaded.percent < restored.percent:
        downloaded = replace(restored, step="downloaded")
    return [downloaded, restored]


def generating(steps: int, frames: int, counters: Counters) -> list[Progress]:
    """What is shown while a video is generated: denoising steps, then encoded frames."""
    return [
        Progress("denoised", min(counters.get("steps", 0), steps), steps, "steps"),
        Progress("encoded", counters.get("frames", 0), frames, "frames"),
    ]


class ProgressArtifacts:
    """`with ProgressArtifacts(sample, measure):` keeps an artifact for each step up to date, with the time it has to
    go.

    A thread of its own asks `sample` for the counters and talks to Prefect, every `update_s`; neither what counts
    nor the flow wait for it. When Prefect does not answer, progress is not shown, and nothing else happens.
    """

    def __init__(
        self,
        sample: Callable[[], Counters],
        measure: Measure,
        create: Callable[..., Any] = create_progress_artifact,
        update: Callable[..., Any] = update_progress_artifact,
        clock: Callable[[], float] = time.monotonic,
        update_s: float = UPDATE_S,
    ) -> None:
        self._sample, self._measure = sample, measure
        self._create, self._update, self._clock, self._update_s = create, update, clock, update_s
        self._artifacts: dict[str, UUID] = {}
        self._shown: dict[str, float] = {}
        self._first: dict[str, tuple[float, float]] = {}  # when, and at how many percent, it was first above nothing
        self._stopped = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="progress", daemon=True)

    def __enter__(self) -> ProgressArtifacts:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(JOIN_TIMEOUT_S)

    def _watch(self) -> None:
        for progress in self._measure({}):
            try:
                made = self._create(progress=0.0, key=progress.step, description=progress.format())
                self._artifacts[progress.step] = made
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
        for progress in self._measure(counters):
            artifact, percent = self._artifacts.get(progress.step), progress.percent
            if artifact is None or percent == self._shown.get(progress.step):
                continue
            try:
                description = replace(progress, eta_s=self._eta_s(progress.step, percent)).format()
                self._update(artifact_id=artifact, progress=percent, description=description)
                self._shown[progress.step] = percent
            except Exception as error:
                log.warning("progress is not shown: %s", type(error).__name__)

    def _eta_s(self, step: str, percent: float) -> float | None:
        """The time that a step has to go, at the rate it had since it was first seen above nothing."""
        if not 0 < percent < 100:
            return None
        now_s = self._clock()
        began_s, first = self._first.setdefault(step, (now_s, percent))
        if percent <= first:
            return None
        return round((now_s - began_s) * (100 - percent) / (percent - first))
