"""What the runs of the generation rows gave: plain figures, kept in the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """How a run began: `began_s` from asking the server for it to the call of the pipeline; `polling_s` of that it
    lay in the queue until a worker had seen it."""

    began_s: float
    polling_s: float

    @property
    def own_s(self) -> float:
        """What the worker, its process and the flow took; and creating the run."""
        return self.began_s - self.polling_s


@dataclass(frozen=True, slots=True)
class Starts:
    """Runs of one flow and one model: on a worker of type `gpu` whose process had done one before, and on Prefect's
    own type `process`."""

    resident: tuple[Start, ...]
    process: tuple[Start, ...]


@dataclass(frozen=True, slots=True)
class Inference:
    """The same videos in pairs: made inside the flow, and in a bare loop that calls the pipeline."""

    flow_s: tuple[float, ...]
    bare_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Durable:
    """What became of `jobs` queued runs while the worker and the server were killed.

    `ended`: state type -> runs, at the end. `whole`: completed runs with one record and one video of the size that it
    says. `begun_anew`: attempts beyond each run's first. `stuck`: runs still pending or running `looked_after_s` after
    the last kill: when all were over, or after some minutes. `wall_s`: from creating the first run to the end of all.
    """

    jobs: int
    slots: int
    ended: dict[str, int]
    whole: int
    begun_anew: int
    stuck: int
    looked_after_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The memory of one resident process after each of its jobs, in bytes of RSS."""

    rss_bytes: tuple[int, ...]


@dataclass(slots=True)
class Generation:
    """None for a row that was not measured."""

    warm: Starts | None = None
    inference: Inference | None = None
    durable: Durable | None = None
    restarts: Durable | None = None
    growth: Growth | None = None
