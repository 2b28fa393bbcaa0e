"""Progress artifacts: percentages in Prefect's UI while a run works, from the engine's counters."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks import sessions

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


def _percent(part: int, whole: int) -> float:
    return min(100.0, 100.0 * part / whole) if whole > 0 else 100.0


class Progress:
    """`with Progress(run, measures):` keeps one artifact per measure up to date, and samples the counters.

    A thread of its own asks the session for its counters and talks to Prefect, at most once a second; neither
    the engine's events nor the flow wait for it. When Prefect does not answer, progress is not shown, and
    nothing else happens.
    """

    def __init__(
        self,
        run: str,
        measures: dict[str, Measure],
        create: Callable[..., Any] = create_progress_artifact,
        update: Callable[..., Any] = update_progress_artifact,
    ) -> None:
        self._run, self._measures = run, measures
        self._create, self._update = create, update
        self._artifacts: dict[str, UUID] = {}
        self._shown: dict[str, float] = {}
        self._stopped = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._watch,), name="progress", daemon=True)

    def __enter__(self) -> Progress:
        for name in self._measures:
            try:
                self._artifacts[name] = self._create(progress=0.0, key=name, description=f"{name}, of all bytes")
            except Exception as error:
                log.warning("progress is not shown: %s", type(error).__name__)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(JOIN_TIMEOUT_S)

    def _watch(self) -> None:
        since_update = 0.0
        while not self._stopped.wait(SAMPLE_S):
            counters = self._sample()
            since_update += SAMPLE_S
            if since_update >= UPDATE_S:
                self._show(counters)
                since_update = 0.0
        self._show(self._sample())

    def _sample(self) -> Counters:
        live = sessions.peek(self._run)
        if live is None:
            return {}
        counters = dict(live.session.counters)
        live.note(counters)
        return counters

    def _show(self, counters: Counters) -> None:
        for name, artifact in self._artifacts.items():
            percent = round(self._measures[name](counters), 1)
            if percent == self._shown.get(name):
                continue
            try:
                self._update(artifact_id=artifact, progress=percent)
                self._shown[name] = percent
            except Exception as error:
                log.warning("progress is not shown: %s", type(error).__name__)
