"""The worker type `gpu`.

It differs from Prefect's process worker: a run is taken off the queue only when a lane for it is free; its process
stays and keeps its model for the next run; a cancelled run stops at its next step and the process lives; runs of
workers that died go back into the queue; SIGTERM lets running runs end.

Three methods that it overrides and one attribute that it reads are private to Prefect, and may change with a minor
version: pyproject.toml pins that, and tests/worker/test_prefect_seams.py fails when one has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import anyio.abc
from cachetools import TTLCache
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_WORKER_CANCELLATION_POLL_SECONDS,
    PREFECT_WORKER_ENABLE_CANCELLATION,
    PREFECT_WORKER_QUERY_SECONDS,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelled, Crashed
from prefect.workers.base import BaseWorker, BaseWorkerResult

from worker.health import HealthServer, summary
from worker.job_variables import GpuJobConfiguration, GpuVariables
from worker.lane import Kind, Outcome
from worker.lane_choice import Lanes
from worker.recovery import Recovery, requeue
from worker.settings import Settings
from worker.worker_locks import Presence

log = logging.getLogger(__name__)
QUERY_S = 1.0
"""How often the queue is polled, unless PREFECT_WORKER_QUERY_SECONDS says otherwise; also when a lane comes free."""
QUERIES_MISSED_MAX = 30
"""A worker that did not poll for so many intervals is reported as failed, as Prefect's own workers are."""
SWEEPS_A_HEARTBEAT = 3
CANCEL_POLL_S = 10.0
"""How often cancelled runs are looked for where Prefect's events do not come through."""
VARIABLES_KEPT_S = 5.0


class GpuWorkerResult(BaseWorkerResult):
    """`identifier` is the lane. `status_code` is always 0: the worker itself reports what went wrong to Prefect."""


class GpuWorker(BaseWorker[GpuJobConfiguration, GpuVariables, GpuWorkerResult]):
    """One per host. Its name is the given one and a random suffix, so that each name stands for one process."""

    type = "gpu"
    job_configuration = GpuJobConfiguration
    job_configuration_variables = GpuVariables
    _description = "Runs image-to-video jobs one per GPU, on processes that keep their model loaded."
    _display_name = "Poorwill GPU"

    def __init__(self, work_pool_name: str, *, name: str | None = None, **rest: Any) -> None:
        super().__init__(work_pool_name, name=f"{name or 'gpu'} {secrets.token_hex(4)}", **rest)
        self._pool = work_pool_name
        self._settings = Settings.read()
        self._lanes = Lanes.of(self._settings)
        self._presence = Presence(self._settings.state_dir / "workers", self.name)
        self._is_set_up, self._lane_is_free = asyncio.Event(), asyncio.Event()
        self._begun: set[UUID] = set()
        self._variables: TTLCache[UUID, dict[str, Any]] = TTLCache(256, VARIABLES_KEPT_S)  # by deployment
        self._full_s = float("-inf")
        self._draining = self._abandoning = False

    async def start(
        self, run_once: bool = False, with_healthcheck: bool = False, printer: Callable[..., None] = print
    ) -> None:
        """Work until it is stopped.

        SIGTERM drains: no run is begun, running ones may end within the drain timeout, and then go back into the
        queue. A second SIGTERM ends the waiting.
        """
        address = self._settings.health
        health = HealthServer(address, self.health) if address is not None else contextlib.nullcontext()
        with self._presence, health, _own_settings():
            serving = asyncio.create_task(super().start(run_once, with_healthcheck, printer))
            draining = asyncio.create_task(self._drain_on_sigterm(printer))
            loops = [asyncio.create_task(loop()) for loop in (self._look_after_all, self._poll_when_a_lane_is_free)]
            try:
                await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended = serving.done()
                for task in (*loops, draining, serving):
                    task.cancel()
                await asyncio.wait({serving})
            if ended:
                serving.result()

    async def setup(self) -> None:
        """See BaseWorker."""
        await super().setup()
        self._is_set_up.set()

    async def _warm_up(self) -> None:
        """Have a process ready on each lane of a GPU, to be warm when a run comes."""
        cold = [lane for lane in self._lanes.all if lane.kind == "gpu" and lane.status in ("cold", "failed")]
        if not cold:
            return
        template = self.work_pool.base_job_template
        job = cast(
            "GpuJobConfiguration",
            await self.job_configuration.from_template_and_values(template, {}, client=self.client),
        )
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        environment = GpuJobConfiguration(env={**settings, **job.env}).lasting_environment()
        await asyncio.gather(*(lane.warm_up(environment, job.working_dir or Path.cwd()) for lane in cold))

    async def teardown(self, *exc_info: Any) -> None:
        """See BaseWorker. Runs that are not over go back into the queue."""
        self._draining = self._abandoning = True
        abandoned = self._lanes.runs
        await self._lanes.close()
        with contextlib.suppress(Exception):  # while the server is away, another worker's sweep finds them
            await asyncio.wait_for(self._give_back(abandoned), 15.0)
        await super().teardown(*exc_info)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """See BaseWorker. The queue is not polled while no run could be begun."""
        if self._draining or not any(lane.free for lane in self._lanes.all):
            self._full_s = time.monotonic()
            return []
        return await super().get_and_submit_flow_runs()

    def is_worker_still_polling(self, query_interval_seconds: float) -> bool:
        """See BaseWorker. A worker that could begin no run a moment ago had no need to poll."""
        was_full = time.monotonic() - self._full_s < QUERIES_MISSED_MAX * query_interval_seconds
        return was_full or super().is_worker_still_polling(query_interval_seconds)

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
            if not self._abandoning:  # else the run goes back into the queue
                with contextlib.suppress(Exception):  # while the server is away: a sweep finds the run later
                    await self._settle(flow_run, outcome)
        finally:
            self._release(flow_run.id)
        return GpuWorkerResult(status_code=0, identifier=lane.name)

    async def _settle(self, flow_run: FlowRun, outcome: Outcome) -> None:
        """Tell Prefect how a run ended whose process could not."""
        if outcome.cancelled:
            found = await self.client.read_flow_run(flow_run.id)
            # Crashed is not left as it is: the process was killed because the run was cancelled.
            if found.state is None or not found.state.is_final() or found.state.is_crashed():
                cancelled: State[Any] = Cancelled(message="The run was cancelled.")
                await self.client.set_flow_run_state(flow_run.id, cancelled, force=True)
        elif outcome.again:
            await requeue(self.client, await self.client.read_flow_run(flow_run.id), outcome.again)
        elif outcome.crash:
            self.get_flow_run_logger(flow_run).error(outcome.crash)
            crashed: State[Any] = Crashed(message=outcome.crash)
            await self.client.set_flow_run_state(flow_run.id, crashed)

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[FlowRun]:
        taken = [entry for entry in flow_run_response if await self._reserve(entry.flow_run)]
        submitted = await super()._submit_scheduled_flow_runs(taken)
        for run in {entry.flow_run.id for entry in taken} - {run.id for run in submitted}:
            self._lanes.release(run)  # the worker's own limit was reached
        return submitted

    async def _reserve(self, flow_run: FlowRun) -> bool:
        """Hold a lane for a run. False where none is free, or the run has one already."""
        if self._lanes.of_run(flow_run.id) is not None:
            return False
        kind: Kind = "gpu" if (await self._job_variables(flow_run)).get("gpus", 1) else "control"
        return self._lanes.reserve(flow_run.id, kind, _affinity(flow_run)) is not None

    async def _submit_run(self, flow_run: FlowRun) -> None:
        try:
            await super()._submit_run(flow_run)
        finally:
            if flow_run.id not in self._begun:
                self._release(flow_run.id)
            elif self._cancelling_observer is not None:
                # Prefect looks for cancellations only until a run has begun; this one can be stopped afterwards.
                self._cancelling_observer.add_in_flight_flow_run_id(flow_run.id)

    def _release(self, flow_run_id: UUID) -> None:
        """Give up what is held for a run: its lane, its slot of the worker's limit, the watch for its cancellation."""
        self._begun.discard(flow_run_id)
        with contextlib.suppress(RuntimeError):  # there is no limit, or the slot was released already
            self.limiter.release_on_behalf_of(flow_run_id)
        if self._cancelling_observer is not None:
            self._cancelling_observer.remove_in_flight_flow_run_id(flow_run_id)
        if self._lanes.release(flow_run_id):
            self._lane_is_free.set()

    async def _poll_when_a_lane_is_free(self) -> None:
        while await self._lane_is_free.wait():
            self._lane_is_free.clear()
            with contextlib.suppress(Exception):  # the polling loop meets the same error, and knows what to do
                await self.get_and_submit_flow_runs()

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        lane = self._lanes.of_run(flow_run_id)
        if lane is not None:
            await lane.cancel(str(flow_run_id))
        if flow_run_id not in self._begun:
            await super()._cancel_run(flow_run_id)

    async def _job_variables(self, flow_run: FlowRun) -> dict[str, Any]:
        """Of pool, deployment and run, for a run in the queue, whose whole configuration need not be resolved yet."""
        properties = self.work_pool.base_job_template.get("variables", {}).get("properties", {})
        found = {name: field["default"] for name, field in properties.items() if "default" in field}
        if flow_run.deployment_id is not None:
            found |= await self._deployment_variables(flow_run.deployment_id)
        return found | (flow_run.job_variables or {})

    async def _deployment_variables(self, deployment: UUID) -> dict[str, Any]:
        """Kept for VARIABLES_KEPT_S; empty for a deployment that is gone."""
        variables = self._variables.get(deployment)
        if variables is None:
            variables = {}
            with contextlib.suppress(ObjectNotFound):
                variables = dict((await self.client.read_deployment(deployment)).job_variables or {})
            self._variables[deployment] = variables
        return variables

    async def _queue_timeout_s(self, flow_run: FlowRun) -> float | None:
        variables = await self._job_variables(flow_run)
        return float(variables.get("queue_timeout_s") or 0) or None if variables.get("gpus", 1) else None

    async def _give_back(self, abandoned: tuple[UUID, ...]) -> None:
        for run in abandoned:
            await requeue(self.client, await self.client.read_flow_run(run), f"{self.name} was stopped")

    async def _look_after_all(self) -> None:
        await self._is_set_up.wait()
        every_s = self.heartbeat_interval_seconds / SWEEPS_A_HEARTBEAT
        recovery = Recovery(
            self.client, self._pool, self.name, self._presence, lambda: self._lanes.runs, self._queue_timeout_s,
            every_s=every_s,
        )  # fmt: skip
        while not self._draining:
            try:
                await self._warm_up()
                await recovery.sweep()
            except Exception as error:
                log.warning("warming up lanes and looking for lost runs failed, and is tried again: %s", error)
            await asyncio.sleep(every_s)

    async def _drain_on_sigterm(self, printer: Callable[..., None]) -> None:
        """Returns when a SIGTERM has come and no run is left, or the drain timeout is over."""
        sigterm = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sigterm.set)
        await sigterm.wait()
        sigterm.clear()
        self._draining = True
        timeout_s = self._settings.drain_timeout_s
        printer(f"Worker {self.name!r} drains: {len(self._lanes.runs)} runs may end within {timeout_s:.0f} s.")
        ends_s = time.monotonic() + timeout_s
        while self._lanes.runs and not sigterm.is_set() and time.monotonic() < ends_s:
            await asyncio.sleep(0.2)

    def health(self) -> dict[str, Any]:
        """The answer to /health: see worker/health.py."""
        polling = self.is_worker_still_polling(get_current_settings().worker.query_seconds)
        return {"worker": self.name, **summary(self._lanes.all, polling=polling, draining=self._draining)}


def _affinity(flow_run: FlowRun) -> str:
    """Equal for runs of the same deployment and model, which need the same things loaded."""
    return f"{flow_run.deployment_id} {flow_run.deployment_version} {flow_run.parameters.get('model', '')}"


def _own_settings() -> contextlib.AbstractContextManager[Any]:
    """Prefect's settings, with this worker type's own defaults."""
    defaults = {PREFECT_WORKER_QUERY_SECONDS: QUERY_S, PREFECT_WORKER_CANCELLATION_POLL_SECONDS: CANCEL_POLL_S}
    return temporary_settings(updates={PREFECT_WORKER_ENABLE_CANCELLATION: True}, set_defaults=defaults)
