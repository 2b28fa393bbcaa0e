"""Runs that wait for a machine: how many there are, whether somebody takes them, and the wake that answers them."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
    WorkQueueFilter,
    WorkQueueFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from blocks.lookup import bare, machine_block, store_block
from blocks.machines import Machine
from flows import own_runs
from flows.slots import held_machines
from flows.wake_run import latest_of
from poorwill.errors import NotFound, Refused

WAKE = "wake/poorwill"
TAG = "wake-on-demand"
RUNS_MAX = 200
FAILURES_WITHIN_S = 6 * 3600.0
WORKER_LABEL = "prefect.worker.name"
"""Prefect writes the name of the worker that took a run into the run's labels."""
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Demand:
    """Where runs wait, and how long a queue that has a worker is not looked at."""

    pool: str
    queue: str
    worker_quiet_s: float

    def waiting(self, client: SyncPrefectClient) -> list[FlowRun]:
        """Runs whose time has come, at most RUNS_MAX."""
        due = FlowRunFilterExpectedStartTime(before_=datetime.now(timezone.utc))
        return self._runs(client, [StateType.SCHEDULED], due)

    def taker(self, client: SyncPrefectClient) -> str:
        """Who takes runs from the queue, in words; "" if nobody does.

        Workers of the pool are no answer, as one that only hibernates and wakes is among them. A queue is looked at by
        its workers every second or few; but one whose GPUs are all busy does not look, and has runs in hand.
        """
        try:
            if client.read_work_pool(self.pool).is_paused or self._queue(client).is_paused:
                return f"nobody: queue {self.queue} of pool {self.pool} is paused"
        except ObjectNotFound:
            raise NotFound(
                f"there is no queue {self.queue} in a work pool {self.pool}: deploy the flows first"
            ) from None
        busy = self._busy_worker(client)
        if busy:
            return f"worker {busy}, which is busy with another run"
        first = last = self._queue(client).last_polled
        # A worker that has just gone has left a fresh time: wait until it is old, or another one comes.
        while last is not None and last == first and _age_s(last) < self.worker_quiet_s:
            time.sleep(_POLL_S)
            last = self._queue(client).last_polled
        return "a worker that looks at the queue" if last is not None and last != first else ""

    def _queue(self, client: SyncPrefectClient) -> Any:
        return client.read_work_queue_by_name(self.queue, work_pool_name=self.pool)

    def _busy_worker(self, client: SyncPrefectClient) -> str:
        runs = self._runs(client, [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        owners = {str(run.labels.get(WORKER_LABEL, "")) for run in runs}
        workers = client.read_workers_for_work_pool(self.pool, limit=RUNS_MAX) if runs else []
        # Runs of a worker that died stay Running until somebody looks after them.
        return next((w.name for w in workers if w.name in owners and w.status == WorkerStatus.ONLINE), "")

    def _runs(
        self, client: SyncPrefectClient, states: list[StateType], due: FlowRunFilterExpectedStartTime | None = None
    ) -> list[FlowRun]:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)), expected_start_time=due
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self.pool])),
            work_queue_filter=WorkQueueFilter(name=WorkQueueFilterName(any_=[self.queue])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=RUNS_MAX,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """Which machine is to answer which demand. `wake`: more parameters of `wake`."""

    machine: str
    store: str
    demand: Demand
    wake: dict[str, Any]
    failures_max: int


def answer(request: Request) -> dict[str, Any]:
    """Start a wake, or say why not. NotFound, UsageError; Refused when wakes of this snapshot keep failing."""
    name, block = bare(request.machine), machine_block(request.machine)
    result: dict[str, Any] = {"machine": name, "waiting": 0, "woken": False, "why": "", "run": None}
    with get_client(sync_client=True) as client:
        waiting = request.demand.waiting(client)
        result["waiting"] = len(waiting)
        why = "no run waits" if not waiting else obstacle(name, block, held_machines())
        if not why and (taker := request.demand.taker(client)):
            why = f"the runs are for {taker}"
        if not why:
            why, run = _wake(client, request, name, block)
            result.update(woken=run is not None, run=str(run.id) if run is not None else None)
    get_run_logger().info("%d runs wait in queue %s; %s", result["waiting"], request.demand.queue, why)
    return {**result, "why": why}


def obstacle(name: str, block: Machine, held: set[str]) -> str:
    """Why a machine cannot be woken now, "" if it can. `held`: see held_machines."""
    if block.status == "waking":
        return f"machine {name} is being woken, or that was cut off: then wake it by hand"
    if block.status == "awake" and block.instance:
        return f"machine {name} is awake: start a worker on it"
    return f"another run works on machine {name}" if block.name in held else ""


def _wake(client: SyncPrefectClient, request: Request, name: str, block: Machine) -> tuple[str, FlowRun | None]:
    with closing(store_block(request.store).open()) as store:
        snapshot = latest_of(store, block.name, block)
        if snapshot is None:
            raise NotFound(f"{store.describe()} holds no snapshot of machine {block.name}: nothing can be woken")
    tags = [TAG, f"{TAG}:{name}"]
    before = [run for run in _tagged(client, tags) if run.parameters.get("snapshot") == snapshot]
    under_way = next((run for run in before if run.state is None or not run.state.is_final()), None)
    if under_way is not None:
        return f"wake {under_way.name} is under way", None
    failures = [run for run in before if _failed_lately(run)]
    if len(failures) >= request.failures_max:
        raise Refused(
            f"{len(failures)} wakes of snapshot {snapshot} failed within six hours, the last one: "
            f"{(failures[0].state.message or '')[:300] if failures[0].state else ''}; wake machine {name} by hand"
        )
    run = own_runs.start(
        WAKE,
        {**request.wake, "snapshot": snapshot, "store": request.store, "machine": request.machine},
        # Who asks at the same time sees the same number of wakes that are over.
        key=f"{TAG}:{name}:{snapshot}:{len(before)}",
        name=f"wake-{name}",
        tags=tags,
    )
    return f"wake {run.name} of snapshot {snapshot} was started", run


def _tagged(client: SyncPrefectClient, tags: list[str]) -> list[FlowRun]:
    """The newest RUNS_MAX, latest first."""
    chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=tags))
    return client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=RUNS_MAX)


def _failed_lately(run: FlowRun) -> bool:
    state = run.state
    since = datetime.now(timezone.utc) - timedelta(seconds=FAILURES_WITHIN_S)
    return state is not None and (state.is_failed() or state.is_crashed()) and state.timestamp > since


def _age_s(moment: datetime) -> float:
    return (datetime.now(timezone.utc) - moment).total_seconds()
