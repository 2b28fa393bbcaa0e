"""How far a running run is: from the progress artifacts and the running tasks that Prefect has of it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.runs.batching import BatchReader
from api.runs.client import Server

KEEP_S = 1.0
BATCH_MAX = 40
LIMIT = 200
"""Prefect's most for one answer."""
_TO_GO = re.compile(r"; (\d{1,9}) s to go")
_COUNT = re.compile(r" (\d{1,6})/(\d{1,6})\b")
# What share of a generation is behind it when each step begins; most of the time is denoising.
LOAD_AT, DENOISE_AT, ENCODE_AT, UPLOAD_AT = 0.02, 0.05, 0.9, 0.97


@dataclass(frozen=True, slots=True)
class Measure:
    """A progress artifact: its key, percent, and what its description says."""

    name: str
    percent: float
    description: str
    updated: str

    @property
    def eta_s(self) -> float | None:
        found = _TO_GO.search(self.description)
        return float(found[1]) if found is not None and self.percent < 100 else None

    @property
    def count(self) -> str:
        found = _COUNT.search(self.description)
        return f" {found[1]}/{found[2]}" if found is not None else ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is said of a running run."""

    step: str
    progress: float
    eta_s: float | None = None

    def fields(self) -> dict[str, Any]:
        return {"step": self.step, "progress": round(self.progress, 3), "eta_s": self.eta_s}


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was read of one run: measures by name, and its running tasks, the newest first."""

    measures: dict[str, Measure]
    tasks: tuple[str, ...]


class Progress:
    """`of(run, flow)`; reads are shared by all who ask within a moment."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader: BatchReader[UUID, Seen] = BatchReader(self._read, lambda seen: KEEP_S, batch_max=BATCH_MAX)

    async def of(self, run: UUID, flow: str) -> Shown:
        seen = await self._reader.get(run) or Seen({}, ())
        return generating(seen) if flow == "generate" else working(seen)

    async def close(self) -> None:
        await self._reader.close()

    async def _read(self, runs: list[UUID]) -> dict[UUID, Seen]:
        measures, tasks = await asyncio.gather(self._measures(runs), self._tasks(runs))
        return {run: Seen(measures.get(run, {}), tuple(tasks.get(run, ()))) for run in runs}

    async def _measures(self, runs: list[UUID]) -> dict[UUID, dict[str, Measure]]:
        chosen = {"flow_run_id": {"any_": [str(run) for run in runs]}, "type": {"any_": ["progress"]}}
        body = {"artifacts": chosen, "sort": "UPDATED_DESC", "limit": LIMIT}
        found: dict[UUID, dict[str, Measure]] = {}
        for artifact in await self._server.post("/artifacts/filter", body):
            measure = Measure(
                str(artifact["key"]), _percent(artifact["data"]), artifact["description"] or "", artifact["updated"]
            )
            found.setdefault(UUID(artifact["flow_run_id"]), {}).setdefault(measure.name, measure)  # the newest
        return found

    async def _tasks(self, runs: list[UUID]) -> dict[UUID, list[str]]:
        chosen = {"flow_run_id": {"any_": [str(run) for run in runs]}, "state": {"type": {"any_": ["RUNNING"]}}}
        body = {"task_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": LIMIT}
        found: dict[UUID, list[str]] = {}
        for task in await self._server.post("/task_runs/filter", body):
            # Prefect names a task run after its task, with a suffix of three characters.
            found.setdefault(UUID(task["flow_run_id"]), []).append(str(task["name"]).rpartition("-")[0] or task["name"])
        return found


def _percent(data: object) -> float:
    return min(100.0, max(0.0, float(data))) if isinstance(data, int | float) else 0.0


def generating(seen: Seen) -> Shown:
    """download, load, denoise k/n, encode, upload."""
    denoised, encoded = seen.measures.get("denoised"), seen.measures.get("encoded")
    if denoised is None:
        return Shown("load", LOAD_AT) if "infer" in seen.tasks else Shown("download", 0.0)
    if denoised.percent < 100:
        progress = DENOISE_AT + denoised.percent / 100 * (ENCODE_AT - DENOISE_AT)
        return Shown(f"denoise{denoised.count}", progress, denoised.eta_s)
    if encoded is None or encoded.percent < 100:
        percent, eta_s = (encoded.percent, encoded.eta_s) if encoded is not None else (0.0, None)
        return Shown("encode", ENCODE_AT + percent / 100 * (UPLOAD_AT - ENCODE_AT), eta_s)
    return Shown("upload", UPLOAD_AT)


def working(seen: Seen) -> Shown:
    """The task that runs, and how far the slowest measure is; after all of them come short steps."""
    step = seen.tasks[0] if seen.tasks else "start"
    if not seen.measures:
        return Shown(step, 0.0)
    slowest = min(seen.measures.values(), key=lambda measure: measure.percent)
    return Shown(step, slowest.percent / 100 * UPLOAD_AT, slowest.eta_s)
