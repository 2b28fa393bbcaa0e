"""A pool, deployments and workers for one test, and a way to wait for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.worker_process import GpuWorkerProcess

T = TypeVar("T")
PATIENCE_S = 60.0


def until(look: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """The first true answer of `look`; AssertionError if there is none in time."""
    ends_s = time.monotonic() + patience_s
    while time.monotonic() < ends_s:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in {patience_s:.0f} s: {what}")


class Rig:
    """One pool on the server; its workers end with `close`."""

    def __init__(self, server: PrefectServer, folder: Path, pool: str) -> None:
        self.server, self.folder, self.pool = server, folder, pool
        self.told = folder / "told"
        self.client: SyncPrefectClient = get_client(sync_client=True)
        self.client.__enter__()
        self._workers: list[GpuWorkerProcess] = []
        create_pool(pool)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.client.__exit__(None, None, None)

    def worker(self, name: str = "w", heartbeat_s: str = "30", **settings: str) -> GpuWorkerProcess:
        """A worker that was started, with POORWILL_<name> settings; one CPU lane unless they say otherwise."""
        given = {"GPUS": "none", "CPU_SLOTS": "1", "CONTROL_SLOTS": "1", "PRELOAD": "", **settings}
        environment = {
            **self.server.env(),
            "PREFECT_WORKER_HEARTBEAT_SECONDS": heartbeat_s,
            **{f"POORWILL_{key}": value for key, value in given.items()},
        }
        worker = GpuWorkerProcess(self.folder, environment, pool=self.pool, name=name)
        self._workers.append(worker)
        return worker.start()

    def deploy(self, flow: Flow[..., Any], gpus: int = 1, **job_variables: Any) -> UUID:
        return deploy(flow, pool=self.pool, gpus=gpus, job_variables=job_variables)

    def run(self, deployment: UUID, **parameters: Any) -> UUID:
        """Create a run; every flow of jobs.py is told where to tell."""
        run = self.client.create_flow_run_from_deployment(deployment, parameters={"path": str(self.told), **parameters})
        return run.id

    def cancel(self, run: UUID) -> None:
        self.client.set_flow_run_state(run, Cancelling())

    def state(self, run: UUID) -> str:
        state = self.client.read_flow_run(run).state
        return state.type.value if state is not None else ""

    def message(self, run: UUID) -> str:
        state = self.client.read_flow_run(run).state
        return str(state.message) if state is not None else ""

    def runs(self, runs: Iterable[UUID]) -> list[FlowRun]:
        found: list[FlowRun] = []
        wanted = list(runs)
        for start in range(0, len(wanted), 200):
            some = FlowRunFilter(id=FlowRunFilterId(any_=wanted[start : start + 200]))
            found += self.client.read_flow_runs(flow_run_filter=some, limit=200)
        return found

    def ended(self, *runs: UUID, patience_s: float = PATIENCE_S) -> list[str]:
        """The states of runs, once all of them are over, in the order they were asked for."""

        def look() -> list[str] | None:
            states = {run.id: run.state for run in self.runs(runs)}
            if not all(state is not None and state.is_final() for state in states.values()):
                return None
            return [states[run].type.value for run in runs]  # type: ignore[union-attr]

        return until(look, f"the end of {len(runs)} runs", patience_s)

    def lines(self, count: int = 0) -> list[list[str]]:
        """The words of each line that was told, once there are `count` of them."""

        def look() -> list[list[str]] | None:
            lines = self.told.read_text().splitlines() if self.told.exists() else []
            return [line.split() for line in lines] if len(lines) >= count else None

        return until(look, f"{count} lines in {self.told.name}") if count else look() or []
