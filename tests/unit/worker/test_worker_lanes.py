"""Which lane takes a run, and when a lane takes none: with processes that are doubles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from worker.health import summary
from worker.job_variables import GpuJobConfiguration
from worker.lane import Lane
from worker.lane_choice import Lanes
from worker.warm_process import Ended, Resident, ResidentFailed


class Double:
    """A process that ends each run at once, in good order."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment, self.folder = dict(environment), folder
        self.ends = Ended()
        self.alive, self.pid, self.runs, self.rss_bytes, self.rss_first_bytes = True, 1, 0, 0, 0

    async def run(self, flow_run_id: str) -> Ended:
        self.runs += 1
        return self.ends

    async def end(self) -> None:
        self.alive = False


class Host:
    """Starts doubles, or fails to."""

    def __init__(self) -> None:
        self.broken = False
        self.started: list[Double] = []

    async def start(self, environment: Mapping[str, str], folder: Path) -> Resident:
        await asyncio.sleep(0)
        if self.broken:
            raise ResidentFailed("no driver")
        self.started.append(Double(environment, folder))
        return self.started[-1]  # type: ignore[return-value]


def lanes(host: Host, gpus: int = 2) -> Lanes:
    made = [Lane(f"gpu {n}", "gpu", {"CUDA_VISIBLE_DEVICES": str(n)}, host.start) for n in range(gpus)]
    return Lanes([*made, Lane("control 0", "control", {}, host.start)])


def job(**fields: Any) -> GpuJobConfiguration:
    return GpuJobConfiguration(**fields)


def done(of: Lanes, run: UUID, affinity: str) -> str:
    """Run it; the name of its lane."""
    lane = of.reserve(run, "gpu", affinity)
    assert lane is not None
    outcome = asyncio.run(lane.execute(str(run), job(), affinity))
    assert outcome.crash is None and of.release(run)
    return lane.name


def test_a_run_goes_where_its_model_is() -> None:
    """Else to a lane that has loaded nothing, else to the one that is idle for longest."""
    of = lanes(Host())
    assert [done(of, uuid4(), model) for model in ("a", "b", "b", "a", "c", "b", "a")] == [
        "gpu 0", "gpu 1", "gpu 1", "gpu 0", "gpu 1", "gpu 0", "gpu 1",
    ]  # fmt: skip


def test_a_lane_takes_one_run_at_a_time() -> None:
    """No more runs than lanes of their kind, each run once, and a lane that is given back twice is free once."""
    of = lanes(Host())
    first, second = uuid4(), uuid4()
    assert of.reserve(first, "gpu", "") and of.reserve(first, "gpu", "") is None
    assert of.reserve(second, "gpu", "") and of.reserve(uuid4(), "gpu", "") is None
    assert {lane.kind for lane in of.all if lane.free} == {"control"}
    assert of.release(first) and not of.release(first)
    assert {lane.kind for lane in of.all if lane.free} == {"control", "gpu"}
    assert of.runs == (second,)


def test_a_host_whose_processes_do_not_start_is_not_given_the_queue() -> None:
    """One run pays for finding out; then the lane takes none until a process could be started without one."""
    host = Host()
    of = lanes(host, gpus=1)
    (lane, _), run = of.all, uuid4()
    host.broken = True
    assert of.reserve(run, "gpu", "") is lane
    outcome = asyncio.run(lane.execute(str(run), job(), ""))
    assert outcome.crash == "gpu 0: no driver" and of.release(run)
    assert (
        not lane.free
        and lane.status == "failed"
        and summary(of.all, polling=True, draining=False)["status"] == "failed"
    )
    host.broken = False
    asyncio.run(lane.warm_up({}, Path("/")))
    assert not lane.free  # it waits before it tries again
    lane._failed_s = float("-inf")
    asyncio.run(lane.warm_up({}, Path("/")))
    assert lane.free and lane.status == "ready"


def test_a_run_that_is_cancelled_while_its_process_starts_does_not_begin() -> None:
    """And ends as cancelled, not as crashed."""
    host = Host()
    lane = lanes(host).all[0]

    async def both() -> Any:
        lane.take("r")
        beginning = asyncio.ensure_future(lane.execute("r", job(), ""))
        await asyncio.sleep(0)
        await lane.cancel("r")
        return await beginning

    outcome = asyncio.run(both())
    assert outcome.cancelled and outcome.crash is None and host.started[0].runs == 0


def test_a_run_whose_server_was_away_is_begun_anew() -> None:
    """It has not crashed, and its process stays."""
    host = Host()
    lane = lanes(host).all[0]
    asyncio.run(lane.execute("r", job(), ""))
    host.started[0].ends = Ended(error="ConnectError: refused", unreachable=True)
    outcome = asyncio.run(lane.execute("r", job(), ""))
    assert outcome.crash is None and outcome.again == "gpu 0: ConnectError: refused"
    assert host.started[0].alive and len(host.started) == 1


def test_a_process_is_kept_for_the_same_environment_and_folder() -> None:
    """Variables that name a run do not count; another variable or folder needs another process."""
    host = Host()
    lane = lanes(host).all[0]
    for fields in (
        {"env": {"A": "1", "PREFECT__FLOW_RUN_ID": "x"}},
        {"env": {"A": "1", "PREFECT__FLOW_RUN_ID": "y"}},
        {"env": {"A": "2"}},
        {"env": {"A": "2"}, "working_dir": "/"},
    ):
        asyncio.run(lane.execute("r", job(**fields), ""))
    assert [(double.environment["A"], double.runs, double.alive) for double in host.started] == [
        ("1", 2, False), ("2", 1, False), ("2", 1, True),
    ]  # fmt: skip
    assert {double.environment["CUDA_VISIBLE_DEVICES"] for double in host.started} == {"0"}
