"""The flow that wakes a machine when work waits for it."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter, WorkQueueFilter
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus, WorkQueue
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from pydantic import Field

from blocks.lookup import bare, machine_block, store_block
from blocks.machines import Machine
from flows import started_runs
from flows.slots import held_machines
from flows.stages import failed
from flows.wake_run import latest_of
from poorwill import defaults
from poorwill.errors import NotFound, PoorwillError, Refused
from poorwill.providers.base import Wish, checked_path

WAKE = "wake/poorwill"
TAG = "wake-on-demand"
RUNS_MAX = 200
FAILURES_WITHIN_S = 6 * 3600.0
WORKER_LABEL = "prefect.worker.name"
"""Prefect writes the name of the worker that took a run into the run's labels."""
_POLL_S = 0.5


@flow(name="wake-on-demand", flow_run_name="wake-on-demand-{machine}", persist_result=False)
def wake_on_demand(
    machine: str,
    store: str,
    pool: str = defaults.GPU_POOL,
    queue: str = defaults.GENERATE_QUEUE,
    provider: str | None = None,
    gpu: str | None = None,
    gpu_count: Annotated[int, Field(ge=1)] | None = None,
    region: str | None = None,
    price_per_hour_max: Annotated[float, Field(gt=0)] | None = None,
    disk_gb: Annotated[int, Field(ge=1)] | None = None,
    workspace: str = defaults.WORKSPACE,
    start_command: str | None = None,
    worker_quiet_s: Annotated[float, Field(gt=0, le=600)] = 30.0,
    failures_max: Annotated[int, Field(ge=1, le=20)] = 3,
) -> dict[str, Any]:
    """Wake a machine from its latest snapshot if runs wait in the queue and no worker takes them; else say why not.

    Meant to be started by an automation when a run is late, and by a schedule for what that missed. However often it
    is started at once, the machine is woken once.

    Args:
        machine: Name of the block of a machine that sleeps, for example `trainer`.
        store: Name of the store block that holds its snapshots, for example `weights`.
        pool: The work pool whose runs wait.
        queue: The queue of that pool whose runs need the machine.
        provider: Name of a provider block, for the new instance. Empty: the provider the machine had.
        gpu: Model of GPU it must have.
        gpu_count: How many GPUs it must have. Empty: one, if the snapshot needs a GPU.
        region: Where it must be.
        price_per_hour_max: What it may cost, in US dollars.
        disk_gb: Disk it must have, in GB. Empty: as much as the snapshot needs.
        workspace: Where to restore to: a directory on the machine.
        start_command: Shell command to run in the workspace once it is awake: it has to start a worker of the pool.
        worker_quiet_s: A queue that no worker has looked at for so long has none.
        failures_max: After so many wakes of a snapshot that failed within six hours no other is tried.
    """
    try:
        wish = Wish(gpu, gpu_count, region, price_per_hour_max, disk_gb).check()
        chosen = {
            "provider": provider, "gpu": wish.gpu, "gpu_count": wish.gpu_count, "region": wish.region,
            "price_per_hour_max": wish.price_per_hour_max, "disk_gb": wish.disk_gb, "start_command": start_command,
            "workspace": checked_path(workspace), "store": store, "machine": machine,
        }  # fmt: skip
        given = {name: value for name, value in chosen.items() if value is not None}
        return _answer(Demand(pool, queue, worker_quiet_s), given, failures_max)
    except PoorwillError as error:
        return failed(error)


@dataclass(frozen=True, slots=True)
class Demand:
    """Where runs wait, and after how long without a look a queue has no worker."""

    pool: str
    queue: str
    worker_quiet_s: float

    def waiting(self, client: SyncPrefectClient) -> list[FlowRun]:
        """Runs whose time has come, at most RUNS_MAX."""
        return self._runs(client, StateType.SCHEDULED, expected_start_time={"before_": datetime.now(timezone.utc)})

    def taker(self, client: SyncPrefectClient) -> str:
        """Who takes runs from the queue, in words; "" if nobody does. NotFound.

        Workers of the pool are no evidence: one that only hibernates and wakes is among them. A queue's workers poll it
        every few seconds; a worker whose GPUs are all busy does not poll, but works on runs of the queue.
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

    def _queue(self, client: SyncPrefectClient) -> WorkQueue:
        return client.read_work_queue_by_name(self.queue, work_pool_name=self.pool)

    def _busy_worker(self, client: SyncPrefectClient) -> str:
        runs = self._runs(client, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
        owners = {str(run.labels.get(WORKER_LABEL, "")) for run in runs}
        workers = client.read_workers_for_work_pool(self.pool, limit=RUNS_MAX) if runs else []
        # Runs of a worker that died stay Running until somebody looks after them.
        return next((w.name for w in workers if w.name in owners and w.status == WorkerStatus.ONLINE), "")

    def _runs(self, client: SyncPrefectClient, *states: StateType, **more: Any) -> list[FlowRun]:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}, **more}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [self.pool]}}),
            work_queue_filter=WorkQueueFilter.model_validate({"name": {"any_": [self.queue]}}),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=RUNS_MAX,
        )


def _answer(demand: Demand, wake: dict[str, Any], failures_max: int) -> dict[str, Any]:
    """Start a wake with these parameters, or say why not.

    NotFound, UsageError; Refused when wakes of this snapshot keep failing.
    """
    name, block = bare(wake["machine"]), machine_block(wake["machine"])
    run = None
    with get_client(sync_client=True) as client:
        waiting = len(demand.waiting(client))
        why = "no run waits" if not waiting else obstacle(name, block, held_machines())
        if not why and (taker := demand.taker(client)):
            why = f"the runs are for {taker}"
        if not why:
            why, run = _wake(client, wake, failures_max, block)
    get_run_logger().info("%d runs wait in queue %s; %s", waiting, demand.queue, why)
    return {
        "machine": name,
        "waiting": waiting,
        "woken": run is not None,
        "why": why,
        "run": str(run.id) if run is not None else None,
    }


def obstacle(name: str, block: Machine, held: set[str]) -> str:
    """Why a machine cannot be woken now, "" if it can. `held`: as held_machines returns them."""
    if block.status == "waking":
        return f"machine {name} is being woken, or that was cut off: then wake it by hand"
    if block.status == "awake" and block.instance:
        return f"machine {name} is awake: start a worker on it"
    return f"another run works on machine {name}" if block.name in held else ""


def _wake(
    client: SyncPrefectClient, wake: dict[str, Any], failures_max: int, block: Machine
) -> tuple[str, FlowRun | None]:
    name = bare(wake["machine"])
    with closing(store_block(wake["store"]).open()) as store:
        snapshot = latest_of(store, block.name, block)
        if snapshot is None:
            raise NotFound(f"{store.describe()} holds no snapshot of machine {block.name}: nothing can be woken")
    tags = [TAG, f"{TAG}:{name}"]
    newest = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": tags}}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=RUNS_MAX,
    )
    before = [run for run in newest if run.parameters.get("snapshot") == snapshot]
    under_way = next((run for run in before if run.state is None or not run.state.is_final()), None)
    if under_way is not None:
        return f"wake {under_way.name} is under way", None
    failures = [run for run in before if _failed_lately(run)]
    if len(failures) >= failures_max:
        raise Refused(
            f"{len(failures)} wakes of snapshot {snapshot} failed within six hours, the last one: "
            f"{(failures[0].state.message or '')[:300] if failures[0].state else ''}; wake machine {name} by hand"
        )
    run = started_runs.start(
        WAKE,
        {**wake, "snapshot": snapshot},
        # Whoever asks at the same time sees the same number of wakes that are over.
        key=f"{TAG}:{name}:{snapshot}:{len(before)}",
        name=f"wake-{name}",
        tags=tags,
    )
    return f"wake {run.name} of snapshot {snapshot} was started", run


def _failed_lately(run: FlowRun) -> bool:
    state = run.state
    return (
        state is not None and (state.is_failed() or state.is_crashed()) and _age_s(state.timestamp) < FAILURES_WITHIN_S
    )


def _age_s(moment: datetime) -> float:
    return (datetime.now(timezone.utc) - moment).total_seconds()
