"""Runs that nobody works on any more: those of workers that died, and those that waited too long."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta, timezone
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed

from worker.heartbeats import Heartbeats
from worker.worker_locks import Presence

log = logging.getLogger(__name__)
PENDING_S = 60.0
"""How long a run that was taken off the queue may be without the name of the worker that took it."""
UNHELD_S = 30.0
GAP_S = 5.0
ATTEMPTS_MAX = 5
PAGE = 200
PAGES_MAX = 50
WORKER_LABEL = "prefect.worker.name"
_HELD_STATES = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


class Recovery:
    """Sweeps one pool. Every worker may sweep: a strict slot lets one at a time change anything.

    held: the runs that this worker works on. queue_timeout_s: how long a run may wait, None for ever. every_s: how
    often `sweep` is called. pending_s: see PENDING_S.
    """

    def __init__(
        self,
        client: PrefectClient,
        pool: str,
        name: str,
        presence: Presence,
        held: Callable[[], Collection[UUID]],
        queue_timeout_s: Callable[[FlowRun], Awaitable[float | None]],
        *,
        every_s: float,
        pending_s: float = PENDING_S,
    ) -> None:
        self._client, self._pool, self._name = client, pool, name
        self._presence, self._held = presence, held
        self._queue_timeout_s = queue_timeout_s
        self._pending_s = pending_s
        self._heartbeats = Heartbeats(gap_s_max=3 * every_s + GAP_S)

    async def sweep(self) -> None:
        """Put runs of dead workers back into the queue, fail those that waited too long. Errors of Prefect's client."""
        await self._watch()
        if any(self._lost(run) for run in await self._runs(_HELD_STATES)):
            await self._recover()
        await self._expire()

    async def _watch(self) -> None:
        found = []
        for page in range(PAGES_MAX):
            found += await self._client.read_workers_for_work_pool(self._pool, offset=page * PAGE, limit=PAGE)
            if len(found) < (page + 1) * PAGE:
                break
        beats = {w.name: (w.last_heartbeat_time, w.heartbeat_interval_seconds) for w in found}
        self._heartbeats.observe(beats, time.monotonic())

    async def _recover(self) -> None:
        slot = f"recovery-{self._pool}"
        with contextlib.suppress(ObjectAlreadyExists):  # made by another worker between look and write
            await self._client.upsert_global_concurrency_limit_by_name(slot, 1)
        try:
            async with concurrency(slot, timeout_seconds=5.0, strict=True, lease_duration=60):
                # Read again: another worker, which held the slot before, may have put them back.
                for run in await self._runs(_HELD_STATES):
                    if self._lost(run):
                        await self._put_back(run)
        except TimeoutError:
            log.info("another worker of pool %s recovers lost runs", self._pool)

    def _lost(self, run: FlowRun) -> bool:
        """Whether the worker that took this run is gone."""
        assert run.state is not None
        if run.id in self._held():
            return False
        owner = str(run.labels.get(WORKER_LABEL, ""))
        age_s = (datetime.now(timezone.utc) - run.state.timestamp).total_seconds()
        if run.state.type == StateType.PENDING and age_s < self._pending_s:
            return False
        if owner == self._name:
            return age_s >= UNHELD_S
        if not owner:
            return run.state.type == StateType.PENDING
        return self._presence.is_gone(owner) or self._heartbeats.dead(owner)

    async def _put_back(self, run: FlowRun) -> None:
        owner = run.labels.get(WORKER_LABEL, "a worker")
        assert run.state is not None
        if run.state.type == StateType.CANCELLING:
            await self._client.set_flow_run_state(run.id, Cancelled(message=f"{owner} was gone"))
            return
        await requeue(self._client, run, f"{owner} died")

    async def _expire(self) -> None:
        late = datetime.now(timezone.utc) - timedelta(seconds=1)
        for run in await self._runs([StateType.SCHEDULED], before=late):
            limit_s = await self._queue_timeout_s(run)
            due = run.expected_start_time or run.created
            waited_s = (datetime.now(timezone.utc) - due).total_seconds() if due is not None else 0.0
            if limit_s and waited_s > limit_s and run.run_count == 0:
                message = (
                    f"It waited {waited_s:.0f} s for a GPU, and at most {limit_s:.0f} are allowed: "
                    "start another worker, or raise the job variable queue_timeout_s"
                )
                await self._client.set_flow_run_state(run.id, Failed(name="TimedOut", message=message))

    async def _runs(self, states: list[StateType], before: datetime | None = None) -> list[FlowRun]:
        """At most PAGE, those first that are due longest: the rest comes in the next sweeps."""
        due = {"expected_start_time": {"before_": before}} if before is not None else {}
        return await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}, **due}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [self._pool]}}),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
        )


async def requeue(client: PrefectClient, run: FlowRun, why: str) -> None:
    """Give a run back to the queue, for another worker to begin it anew; or end it, after ATTEMPTS_MAX attempts.

    Not forced: the server decides whether the run may still go back, for example not when it has ended meanwhile.
    """
    if run.run_count >= ATTEMPTS_MAX:
        message = f"{why} while it worked on this run, as {run.run_count - 1} others before: it is not tried again"
        await client.set_flow_run_state(run.id, Crashed(message=message))
        return
    log.warning("run %s goes back into the queue: %s", run.id, why)
    await client.set_flow_run_state(run.id, AwaitingRetry(message=f"{why}; the run goes back into the queue"))
