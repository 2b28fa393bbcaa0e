"""The sources of the gauges: runs and queues from Prefect, snapshots from the store, machines from both. Each reading
asks for a bounded number of things, and the labels are bounded too."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from api.gauges.cache import Sample, Source
from api.machines.blocks import MachineBlocks
from api.machines.prices import PriceList, price_per_hour
from api.runs.client import Prefect
from api.store.snapshots import Catalog, Name, Row
from api.store.threads import Threads
from poorwill.runs import QUEUED_TYPES

FLOWS = ("generate", "hibernate", "wake", "snapshot", "replicate", "retention", "verify", "reap", "autosleep", "delete",
         "deliver", "wake-on-demand")  # fmt: skip
HELP = {
    "poorwill_runs": "Runs of the last 30 days, by flow and Prefect's state.",
    "poorwill_queue_depth": "Runs that wait for a worker, by queue of the work pool.",
    "poorwill_queue_paused": "Whether an operator has paused the queue.",
    "poorwill_workers": "Workers of the pool, by Prefect's status.",
    "poorwill_stage_seconds": "Seconds by stage, on average over the newest runs.",
    "poorwill_stage_seconds_max": "The longest of them.",
    "poorwill_stage_runs": "How many runs these are.",
    "poorwill_snapshots": "Committed snapshots, by machine.",
    "poorwill_snapshot_sent_bytes": "Bytes of the parts that these snapshots own in the store.",
    "poorwill_snapshot_data_bytes": "Bytes of data that the machine's newest snapshot holds.",
    "poorwill_snapshot_stored_bytes": "Bytes stored for them, with parts borrowed from earlier snapshots.",
    "poorwill_snapshot_ratio": "data_bytes / stored_bytes.",
    "poorwill_snapshots_unread": "Snapshots whose bytes are not counted yet.",
    "poorwill_machines": "Machine blocks, by status and kind of provider.",
    "poorwill_machine_price_per_hour_dollars": "Of machines with an instance, as they were created.",
    "poorwill_machines_price_unknown": "Machines with an instance whose price is not on record.",
}
"""What each gauge means."""
RUNS_WINDOW = timedelta(days=30)
TASK_RUNS = 200
MACHINES_MAX = 200
"""The machines with a label of their own; the others are summed as OTHER."""
OTHER = "(other)"
READ_S = 10.0
READ_BATCH = 100
_STAGE = re.compile(r"([a-z][a-z_]{0,40})-")


def all_sources(
    prefect: Prefect, pool: str, catalog: Catalog, threads: Threads, machines: MachineBlocks, prices: PriceList
) -> dict[str, Source]:
    return {
        "runs": partial(runs_by_flow, prefect),
        "queues": partial(queues, prefect, pool),
        "stages": partial(stages, prefect),
        "store": partial(threads.run, partial(snapshots, catalog), "the store"),
        "machines": partial(machines_by_status, machines, prices),
    }


async def runs_by_flow(prefect: Prefect) -> list[Sample]:
    """The runs of the last 30 days, and those scheduled for the next day, as Prefect counts them."""
    end = datetime.now(timezone.utc) + timedelta(days=1)
    window = {
        "history_start": (end - RUNS_WINDOW).isoformat(),
        "history_end": end.isoformat(),
        "history_interval_seconds": RUNS_WINDOW.total_seconds(),
    }
    few, counted = asyncio.Semaphore(3), Counter[tuple[str, str]]()

    async def count(flow: str) -> None:
        async with few:
            history = await prefect.post("/flow_runs/history", {**window, "flows": {"name": {"any_": [flow]}}})
        for state in (state for interval in history for state in interval["states"]):
            counted[flow, str(state["state_type"]).lower()] += state["count_runs"]

    await asyncio.gather(*map(count, FLOWS))
    return [Sample("poorwill_runs", n, (("flow", flow), ("state", state))) for (flow, state), n in counted.items()]


async def queues(prefect: Prefect, pool: str) -> list[Sample]:
    """The work pool: the runs that wait in its queues, and its workers."""
    client, samples = prefect.client, []
    for queue in await prefect.ask(client.read_work_queues(work_pool_name=pool, limit=50)):
        waiting = {
            "work_pool_queues": {"id": {"any_": [str(queue.id)]}},
            "flow_runs": {"state": {"type": {"any_": list(QUEUED_TYPES)}}},
        }
        labels = (("queue", queue.name),)
        depth = float(await prefect.post("/flow_runs/count", waiting))
        samples.append(Sample("poorwill_queue_depth", depth, labels))
        samples.append(Sample("poorwill_queue_paused", float(queue.is_paused), labels))
    workers = await prefect.ask(client.read_workers_for_work_pool(work_pool_name=pool, limit=200))
    seen = Counter(str(getattr(worker.status, "value", worker.status) or "unknown").lower() for worker in workers)
    return [*samples, *(Sample("poorwill_workers", n, (("status", status),)) for status, n in seen.items())]


async def stages(prefect: Prefect) -> list[Sample]:
    """How long the stages of flows take: from the start of the first task of a name in a run to the end of the last,
    in the newest TASK_RUNS completed task runs."""
    completed = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    newest = {**completed, "sort": "END_TIME_DESC", "limit": TASK_RUNS}
    took = stage_seconds(await prefect.post("/task_runs/filter", newest))
    samples = []
    for stage, seconds in sorted(took.items()):
        labels = (("stage", stage),)
        samples.append(Sample("poorwill_stage_seconds", sum(seconds) / len(seconds), labels))
        samples.append(Sample("poorwill_stage_seconds_max", max(seconds), labels))
        samples.append(Sample("poorwill_stage_runs", len(seconds), labels))
    return samples


def stage_seconds(task_runs: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds of each stage, one number for each run, from task runs as Prefect answers them, newest first.

    The oldest run of a full page is left out: some of its tasks may be missing.
    """
    begun: dict[tuple[str, str], datetime] = {}
    ended: dict[tuple[str, str], datetime] = {}
    runs = [str(found["flow_run_id"]) for found in task_runs if found.get("flow_run_id")]
    cut_off = runs[-1] if len(task_runs) >= TASK_RUNS else None
    for found in task_runs:
        stage, run = _STAGE.match(str(found.get("name"))), str(found.get("flow_run_id"))
        if stage is None or run == cut_off or not found.get("start_time") or not found.get("end_time"):
            continue
        key = (run, stage[1])
        start, end = datetime.fromisoformat(found["start_time"]), datetime.fromisoformat(found["end_time"])
        begun[key] = min(start, begun.get(key, start))
        ended[key] = max(end, ended.get(key, end))
    took: defaultdict[str, list[float]] = defaultdict(list)
    for (run, stage_name), start in begun.items():
        took[stage_name].append(max(0.0, (ended[run, stage_name] - start).total_seconds()))
    return dict(took)


def snapshots(catalog: Catalog) -> list[Sample]:
    """The snapshots in the store, by machine. Metadata that is not known yet is read, for READ_S at a time."""
    names = list(catalog.names())
    rows = {name: catalog.remembered(name) for name in names}
    newest = dict(sorted(names))
    missing = sorted((newest[name[0]] != name[1], name) for name, row in rows.items() if row is None)
    ends_s = time.monotonic() + READ_S
    for start in range(0, len(missing), READ_BATCH):
        if time.monotonic() > ends_s:
            break
        batch = [name for _, name in missing[start : start + READ_BATCH]]
        rows.update(zip(batch, catalog.rows(batch), strict=True))
    unread = sum(row is None for row in rows.values())
    return [*_of_machines(rows, newest), Sample("poorwill_snapshots_unread", unread)]


def _of_machines(rows: dict[Name, Row | None], newest: dict[str, str]) -> list[Sample]:
    count: Counter[str] = Counter(machine for machine, _ in rows)
    sent: Counter[str] = Counter()
    for (machine, _), row in rows.items():
        sent[machine] += row.sent_bytes if row is not None else 0
    shown = {machine for machine, _ in count.most_common(MACHINES_MAX)}
    summed: defaultdict[tuple[str, str], float] = defaultdict(float)
    for machine in count:
        label, last = machine if machine in shown else OTHER, rows[machine, newest[machine]]
        summed["poorwill_snapshots", label] += count[machine]
        summed["poorwill_snapshot_sent_bytes", label] += sent[machine]
        if last is not None:
            summed["poorwill_snapshot_data_bytes", label] += last.data_bytes
            summed["poorwill_snapshot_stored_bytes", label] += last.stored_bytes
    for machine in sorted({label for _, label in summed}):
        stored = summed.get(("poorwill_snapshot_stored_bytes", machine), 0)
        if stored:
            summed["poorwill_snapshot_ratio", machine] = summed["poorwill_snapshot_data_bytes", machine] / stored
    return [Sample(name, value, (("machine", machine),)) for (name, machine), value in summed.items()]


async def machines_by_status(machines: MachineBlocks, price_list: PriceList) -> list[Sample]:
    """Which machines are awake, and what that costs as far as prices are known."""
    found, known = await machines.every(), await price_list.known()
    counted = Counter((machine.status, machine.kind.removeprefix("poorwill-")) for machine in found)
    samples = [
        Sample("poorwill_machines", n, (("status", status), ("provider", kind)))
        for (status, kind), n in counted.items()
    ]
    prices = {machine.block: price_per_hour(machine, known) for machine in found if machine.instance}
    priced = sorted(((price, block) for block, price in prices.items() if price is not None), reverse=True)
    dearest: defaultdict[str, float] = defaultdict(float)
    for number, (price, block) in enumerate(priced):
        dearest[block if number < MACHINES_MAX else OTHER] += price
    samples += [
        Sample("poorwill_machine_price_per_hour_dollars", price, (("machine", block),))
        for block, price in dearest.items()
    ]
    return [*samples, Sample("poorwill_machines_price_unknown", sum(price is None for price in prices.values()))]
