"""The worker type `gpu`.

What it does otherwise than Prefect's process worker: a run is taken off the queue only when a lane for it is free;
its process stays and keeps its model for the next run; a cancelled run stops at its next step and the process lives;
runs of workers that died go back into the queue; SIGTERM lets running runs end.

The underscored methods it overrides are Prefect's own, which may change with a minor version: pyproject.toml pins
that, and tests/worker/test_prefect_seams.py says at once when one has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio.abc
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import (
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    PREFECT_WORKER_QUERY_SECONDS,
    get_current_settings,
    temporary_settings,
)
from prefect.types._datetime import now
from prefect.workers.base import BaseWorker, BaseWorkerResult

from worker.configuration import GpuJobConfiguration, GpuVariables
from worker.health import HealthServer, summary
from worker.job_variables import JobVariables
from worker.lane import Kind, Outcome
from worker.lanes import Lanes
from worker.presence import Presence
from worker.recovery import Recovery, requeue
from worker.settings import Settings

QUERY_S = 1.0
"""How often the queue is looked at, unless PREFECT_WORKER_QUERY_SECONDS says otherwise; also at once when a lane
comes free."""
SWEEPS_A_HEARTBEAT = 3
CANCEL_POLL_S = 10.0
"""Where events do not come through, cancelled runs are asked for so often."""
ABANDON_TIMEOUT_S = 15.0
_DRAIN_POLL_S = 0.2
_ENDED = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}


class GpuWorkerResult(BaseWorkerResult):
    """`identifier` is the lane. `status_code` is always 0: the worker itself has told Prefect what went wrong."""


class GpuWorker(BaseWorker[GpuJobConfiguration, GpuVariables, GpuWorkerResult]):
    """One per host. Its name is the given one and a random suffix: a name stands for one process."""

    type = "gpu"
    job_configuration = GpuJobConfiguration
    job_configuration_variables = GpuVariables
    _description = "Runs image-to-video jobs one per GPU, on processes that keep their model loaded."
    _display_name = "Poorwill GPU"

    def __init__(
        self,
        work_pool_name: str,
        *arguments: Any,
        name: str | None = None,
        settings: Settings | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(work_pool_name, *arguments, name=f"{name or 'gpu'} {secrets.token_hex(4)}", **rest)
        self._settings = settings or Settings.read()
        self._lanes = Lanes.of(self._settings)
        self._presence = Presence(self._settings.state_folder / "workers", self.name)
        self._variables: JobVariables | None = None
        self._begun: set[UUID] = set()
        self._draining = self._abandoning = False

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Work until it is stopped. SIGTERM drains: nothing new is begun, what runs may end within the drain timeout,
        and what does not goes back into the queue. A second SIGTERM ends the waiting."""
        with self._presence, self._answering_health(), _own_settings():
            serving = asyncio.create_task(super().start(run_once, with_healthcheck, printer))
            draining = asyncio.create_task(self._drain_when_told(printer))
            sweeping = asyncio.create_task(self._look_after_all())
            try:
                await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended = serving.done()
                for task in (sweeping, draining, serving):
                    task.cancel()
                await asyncio.wait({serving})
            if ended:
                serving.result()

    async def setup(self) -> None:
        """See BaseWorker. Processes of GPU lanes are started, to be warm when the first run comes."""
        await super().setup()
        self._variables = JobVariables(self.client)
        if self._runs_task_group is not None:
            self._runs_task_group.start_soon(self._warm_up)

    async def _warm_up(self) -> None:
        """Have a process ready on each lane of a GPU, where it could be started."""
        cold = [lane for lane in self._lanes.all if lane.kind == "gpu" and lane.status in ("cold", "failed")]
        if self._work_pool is None or not cold:
            return
        job = await self.job_configuration.from_template_and_values(
            self.work_pool.base_job_template, {}, client=self.client
        )
        environment = GpuJobConfiguration(env={**job._base_environment(), **job.env}).lasting_environment()
        await asyncio.gather(*(lane.warm_up(environment, job.working_dir or Path.cwd()) for lane in cold))

    async def teardown(self, *exc_info: Any) -> None:
        """See BaseWorker. Runs that are not over go back into the queue."""
        self._draining = self._abandoning = True
        abandoned = self._lanes.runs
        await self._lanes.close()
        with contextlib.suppress(Exception):  # where the server is away, another worker's sweep finds them
            await asyncio.wait_for(self._give_back(abandoned), ABANDON_TIMEOUT_S)
        await super().teardown(*exc_info)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """See BaseWorker. The queue is not asked while nothing could be begun."""
        if self._draining or not (self._lanes.has_free("gpu") or self._lanes.has_free("control")):
            self._last_polled_time = now("UTC")
            return []
        return await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: GpuJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> GpuWorkerResult:
        """Run it on the lane that was reserved for it."""
        lane = self._lanes.of_run(flow_run.id)
        if lane is None:
            raise RuntimeError(f"no lane was reserved for run {flow_run.id}")
        self._begun.add(flow_run.id)
        if task_status is not None:
            task_status.started(f"{self.name}: {lane.name}")
        try:
            outcome = await lane.execute(str(flow_run.id), configuration, _affinity(flow_run))
        finally:
            self._begun.discard(flow_run.id)
        await self._settle(flow_run, outcome)
        return GpuWorkerResult(status_code=0, identifier=lane.name)

    async def _settle(self, flow_run: FlowRun, outcome: Outcome) -> None:
        """Tell Prefect how a run ended whose process could not."""
        if self._abandoning:
            return  # it goes back into the queue
        if outcome.again and not outcome.cancelled:
            await self._begin_anew(flow_run, outcome.again)
        elif outcome.cancelled:
            found = await self.client.read_flow_run(flow_run.id)
            if found.state is None or found.state.type not in _ENDED:
                await self._mark_flow_run_as_cancelled(found, {"message": "The run was cancelled."})
        elif outcome.crash:
            self.get_flow_run_logger(flow_run).error(outcome.crash)
            await self._propose_crashed_state(flow_run, outcome.crash)

    async def _begin_anew(self, flow_run: FlowRun, why: str) -> None:
        """Its process did not reach Prefect's server. While that is away, this fails too: then a sweep does it."""
        with contextlib.suppress(Exception):
            await requeue(self.client, await self.client.read_flow_run(flow_run.id), why)

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[FlowRun]:
        taken = [entry for entry in flow_run_response if await self._reserve(entry.flow_run)]
        submitted = await super()._submit_scheduled_flow_runs(taken)
        for entry in taken:  # the worker's own limit may have been reached
            if entry.flow_run.id not in self._submitting_flow_run_ids and entry.flow_run.id not in self._begun:
                self._lanes.release(entry.flow_run.id)
        return submitted

    async def _reserve(self, flow_run: FlowRun) -> bool:
        """Hold a lane for a run. False where there is none, or it is in hand already."""
        if flow_run.id in self._submitting_flow_run_ids or self._lanes.of_run(flow_run.id) is not None:
            return False
        kind: Kind = "gpu" if (await self._job_variables(flow_run)).get("gpus", 1) else "control"
        return self._lanes.reserve(flow_run.id, kind, _affinity(flow_run)) is not None

    async def _submit_run(self, flow_run: FlowRun) -> None:
        try:
            await super()._submit_run(flow_run)
        finally:
            if flow_run.id not in self._begun:
                self._release_limit_slot(flow_run.id)
            elif self._cancelling_observer is not None:
                # Prefect looks for cancellations only until a run has begun; this one can be stopped afterwards.
                self._cancelling_observer.add_in_flight_flow_run_id(flow_run.id)

    def _release_limit_slot(self, flow_run_id: UUID) -> None:
        super()._release_limit_slot(flow_run_id)
        if self._cancelling_observer is not None:
            self._cancelling_observer.remove_in_flight_flow_run_id(flow_run_id)
        if self._lanes.release(flow_run_id) and not self._draining and self._runs_task_group is not None:
            self._runs_task_group.start_soon(self._poll_at_once)

    async def _poll_at_once(self) -> None:
        with contextlib.suppress(Exception):  # the polling loop meets the same error, and knows what to do
            await self.get_and_submit_flow_runs()

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        lane = self._lanes.of_run(flow_run_id)
        if lane is not None:
            await lane.cancel(str(flow_run_id))
        if flow_run_id not in self._begun:
            await super()._cancel_run(flow_run_id)

    async def _job_variables(self, flow_run: FlowRun) -> dict[str, Any]:
        assert self._variables is not None
        return await self._variables.of(flow_run, self.work_pool)

    async def _queue_timeout_s(self, flow_run: FlowRun) -> float | None:
        variables = await self._job_variables(flow_run)
        return float(variables.get("queue_timeout_s") or 0) or None if variables.get("gpus", 1) else None

    async def _give_back(self, abandoned: tuple[UUID, ...]) -> None:
        for run in abandoned:
            await requeue(self.client, await self.client.read_flow_run(run), f"{self.name} was stopped")

    async def _look_after_all(self) -> None:
        recovery: Recovery | None = None
        every_s = self.heartbeat_interval_seconds / SWEEPS_A_HEARTBEAT
        while True:
            await asyncio.sleep(every_s)
            if not self._has_successfully_synced or self._draining:
                continue
            recovery = recovery or Recovery(
                self.client, self._work_pool_name, self.name, self._presence, self._in_hand, self._queue_timeout_s,
                every_s=every_s,
            )  # fmt: skip
            try:
                await self._warm_up()
                await recovery.sweep()
            except Exception as error:
                self._logger.warning("Looking for lost runs failed, and is tried again: %s", error)

    def _in_hand(self) -> set[UUID]:
        return {*self._lanes.runs, *self._submitting_flow_run_ids}

    async def _drain_when_told(self, printer: Callable[..., None]) -> None:
        """Returns when a SIGTERM has come and nothing runs any more, or its time is over."""
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        await told.wait()
        told.clear()
        self._draining = True
        timeout_s = self._settings.drain_timeout_s
        printer(f"Worker {self.name!r} drains: {len(self._lanes.runs)} runs may end within {timeout_s:.0f} s.")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._until_idle(told), timeout_s)

    async def _until_idle(self, told_again: asyncio.Event) -> None:
        while self._lanes.runs and not told_again.is_set():
            await asyncio.sleep(_DRAIN_POLL_S)

    @contextlib.contextmanager
    def _answering_health(self) -> Iterator[None]:
        if self._settings.health is None:
            yield
            return
        with HealthServer(self._settings.health, self.health):
            yield

    def health(self) -> dict[str, Any]:
        """What /health answers: see worker/health.py."""
        polling = self.is_worker_still_polling(get_current_settings().worker.query_seconds)
        return {"worker": self.name, **summary(self._lanes.all, polling=polling, draining=self._draining)}


def _affinity(flow_run: FlowRun) -> str:
    """Runs of the same deployment and model have the same things loaded."""
    return f"{flow_run.deployment_id} {flow_run.deployment_version} {flow_run.parameters.get('model', '')}"


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Prefect's settings that this worker type has other defaults for."""
    defaults = {PREFECT_WORKER_QUERY_SECONDS: QUERY_S, PREFECT_WORKER_CANCELLATION_POLL_SECONDS: CANCEL_POLL_S}
    with temporary_settings(updates={PREFECT_WORKER_ENABLE_CANCELLATION: True}, set_defaults=defaults):
        yield
