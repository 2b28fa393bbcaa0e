"""Following a flow run: its steps, its progress, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from poorwill.cli.runs import Run, Runs
from poorwill.errors import NotFound, PoorwillError, ServerUnavailable
from poorwill.runs import Progress, Status

POLL_S = 1.0
AWAY_S_MAX = 600.0
"""How long the server may be away: a restart or an upgrade takes less, and the run goes on meanwhile."""
WAITING_S = 5.0
"""After so long in the queue, look whether any worker takes runs from there."""


@dataclass(frozen=True, slots=True)
class Measure:
    """The progress of one step. `rate`: percent a second since it was first seen."""

    progress: Progress
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The task runs of one task, like the 32 of pack_part."""

    name: str
    done: int
    all: int
    running: bool


@dataclass(frozen=True, slots=True)
class Look:
    """A run at one moment, with the runs that it started. `note`: why it may be waiting."""

    run: Run
    measures: list[Measure] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    children: list[Look] = field(default_factory=list)
    note: str = ""

    @property
    def step(self) -> Step | None:
        """The step that runs now, else the last that ran; of several, the one that began last."""
        return next((step for step in self.steps if step.running), self.steps[0] if self.steps else None)


class Show(Protocol):
    """Shows what was seen of a run."""

    def look(self, look: Look) -> None: ...

    def away(self, error: PoorwillError) -> None:
        """The server does not answer; it will be asked again."""


class Following:
    """Follows one run to its end, however long it lasts: the flow's own limits bound that."""

    def __init__(
        self,
        runs: Runs,
        run: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        away_s_max: float = AWAY_S_MAX,
    ) -> None:
        self._runs, self._run, self._clock, self._sleep, self._away_s_max = runs, run, clock, sleep, away_s_max
        self._first: dict[tuple[str, str], tuple[float, float]] = {}  # by run and step: when, at how many percent
        self._queued_since_s: float | None = None

    def end(self, show: Show) -> Run:
        """The run once it is over. ServerUnavailable if the server stays away, and whatever else `Runs` raises; the
        run goes on all the same."""
        answered_s = self._clock()
        while True:
            try:
                look = self.look()
                answered_s = self._clock()
                show.look(look)
                if look.run.status.is_over:
                    return look.run
            except ServerUnavailable as error:
                if self._clock() - answered_s > self._away_s_max:
                    raise
                show.away(error)
            self._sleep(POLL_S)

    def look(self) -> Look:
        """The run with its progress, and the runs it started with theirs."""
        run = self._runs.read(self._run)
        if run.status is Status.QUEUED:
            return Look(run, note=self._queue(run))
        self._queued_since_s = None
        children = self._runs.children(run.id)
        shown = self._runs.progress([run.id, *(child.id for child in children)])
        measures = {found: [self._measure(found, progress) for progress in shown[found]] for found in shown}
        seen = [self._of(child, measures) for child in children]
        return Look(run, measures.get(run.id, []), steps(self._runs.tasks(run.id)), seen)

    def _of(self, child: Run, measures: dict[str, list[Measure]]) -> Look:
        running = child.status is Status.RUNNING
        return Look(child, measures.get(child.id, []), steps(self._runs.tasks(child.id)) if running else [])

    def _measure(self, run: str, progress: Progress) -> Measure:
        now_s, at, key = self._clock(), progress.percent, (run, progress.step)
        began_s, first = self._first.setdefault(key, (now_s, at))
        if at < first:  # the run began again
            self._first[key] = (now_s, at)
        rate = (at - first) / (now_s - began_s) if at > first and now_s > began_s else None
        return Measure(progress, rate)

    def _queue(self, run: Run) -> str:
        """Why it may be waiting: no worker takes runs from its pool."""
        now_s = self._clock()
        if self._queued_since_s is None:
            self._queued_since_s = now_s
        if run.state_type != "SCHEDULED" or now_s - self._queued_since_s < WAITING_S or not run.pool:
            return ""
        try:
            online = self._runs.workers_online(run.pool)
        except NotFound:
            return f"there is no work pool '{run.pool}'"
        return f"waiting for a free worker of {online}" if online else f"no worker takes runs of the pool '{run.pool}'"


def steps(tasks: list[dict[str, Any]]) -> list[Step]:
    """Task runs by task, the task that began last first. By key, since the runs of a mapped task have own names."""
    found: dict[str, list[str]] = {}
    for row in tasks:
        name = str(row.get("task_key") or "").rpartition("-")[0] or str(row.get("name") or "")
        found.setdefault(name, []).append(str(row.get("state_type") or "PENDING"))
    return [
        Step(name, states.count("COMPLETED"), len(states), any(s in ("RUNNING", "PENDING") for s in states))
        for name, states in found.items()
    ]
