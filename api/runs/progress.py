"""How far a running run is: from the progress artifacts and the running tasks that Prefect has of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.runs.caches import BatchReader
from api.runs.client import Prefect
from poorwill.runs import Progress

LIMIT = 200
"""Prefect's most for one answer."""
# How far a generation is when each step begins; most of the time is denoising.
LOAD_AT, DENOISE_AT, ENCODE_AT, UPLOAD_AT = 0.02, 0.05, 0.9, 0.97


@dataclass(frozen=True, slots=True)
class Seen:
    """A running run: the progress of its steps by name, and its running tasks, the newest first."""

    steps: dict[str, Progress]
    tasks: tuple[str, ...]


class ProgressReader:
    """Calls at about the same time share one read."""

    def __init__(self, prefect: Prefect) -> None:
        self._prefect = prefect
        self._reader: BatchReader[UUID, Seen] = BatchReader(self._read, lambda seen: 1.0, batch_max=40)

    async def of(self, run: UUID, flow: str) -> dict[str, Any]:
        """`step`, `progress` and `eta_s` of a run's view."""
        seen = await self._reader.get(run) or Seen({}, ())
        return generating(seen) if flow == "generate" else working(seen)

    async def close(self) -> None:
        await self._reader.close()

    async def _read(self, runs: list[UUID]) -> dict[UUID, Seen]:
        steps, tasks = await asyncio.gather(self._steps(runs), self._tasks(runs))
        return {run: Seen(steps.get(run, {}), tuple(tasks.get(run, ()))) for run in runs}

    async def _steps(self, runs: list[UUID]) -> dict[UUID, dict[str, Progress]]:
        chosen = {"flow_run_id": {"any_": [str(run) for run in runs]}, "type": {"any_": ["progress"]}}
        body = {"artifacts": chosen, "sort": "UPDATED_DESC", "limit": LIMIT}
        found: dict[UUID, dict[str, Progress]] = {}
        for artifact in await self._prefect.post("/artifacts/filter", body):
            progress = Progress.of_artifact(artifact)
            found.setdefault(UUID(artifact["flow_run_id"]), {}).setdefault(progress.step, progress)  # the newest
        return found

    async def _tasks(self, runs: list[UUID]) -> dict[UUID, list[str]]:
        chosen = {"flow_run_id": {"any_": [str(run) for run in runs]}, "state": {"type": {"any_": ["RUNNING"]}}}
        body = {"task_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": LIMIT}
        found: dict[UUID, list[str]] = {}
        for task in await self._prefect.post("/task_runs/filter", body):
            # Prefect names a task run after its task, with a suffix of three characters.
            found.setdefault(UUID(task["flow_run_id"]), []).append(str(task["name"]).rpartition("-")[0] or task["name"])
        return found


def generating(seen: Seen) -> dict[str, Any]:
    """download, load, denoise k/n, encode, upload."""
    denoised, encoded = seen.steps.get("denoised"), seen.steps.get("encoded", Progress("encoded", 0))
    if denoised is None:
        return _fields("load", LOAD_AT) if "infer" in seen.tasks else _fields("download", 0.0)
    if denoised.percent < 100:
        count = f" {denoised.done:.0f}/{denoised.total:.0f}" if denoised.unit == "steps" else ""
        return _fields(f"denoise{count}", _between(DENOISE_AT, ENCODE_AT, denoised), denoised.eta_s)
    if encoded.percent < 100:
        return _fields("encode", _between(ENCODE_AT, UPLOAD_AT, encoded), encoded.eta_s)
    return _fields("upload", UPLOAD_AT)


def working(seen: Seen) -> dict[str, Any]:
    """The task that runs, and how far the slowest step is; short tasks follow after all of them."""
    task = seen.tasks[0] if seen.tasks else "start"
    if not seen.steps:
        return _fields(task, 0.0)
    slowest = min(seen.steps.values(), key=lambda progress: progress.percent)
    return _fields(task, _between(0.0, UPLOAD_AT, slowest), slowest.eta_s)


def _between(start: float, end: float, progress: Progress) -> float:
    return start + progress.percent / 100 * (end - start)


def _fields(step: str, progress: float, eta_s: float | None = None) -> dict[str, Any]:
    return {"step": step, "progress": round(progress, 3), "eta_s": eta_s}
