"""The process of a lane stays between runs, and is replaced when it must be. A real worker, a real server."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.worker import jobs
from tests.worker.rig import Rig, until


def test_runs_share_a_process(lane: Rig) -> None:
    """Same pid, and the next run finds what a run has kept: a model stays loaded."""
    deployment = lane.deploy(jobs.remember)
    assert lane.ended(*(lane.run(deployment) for _ in range(3))) == ["COMPLETED"] * 3
    told = lane.lines(3)
    assert len({pid for pid, *_ in told}) == 1
    counts = [int(count) for _, count, *_ in told]
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]


def test_another_environment_needs_another_process(lane: Rig) -> None:
    """A variable of the job is there, which a process that was started without it could not have."""
    plain = lane.run(lane.deploy(jobs.remember))
    assert lane.ended(plain) == ["COMPLETED"]
    changed = lane.run(lane.deploy(jobs.remember, env={"JOB_VARIABLE": "changed"}))
    assert lane.ended(changed) == ["COMPLETED"]
    (first, *_), (second, _, _, variable, _) = lane.lines(2)
    assert first != second and variable == "changed"
    until(lambda: not psutil.pid_exists(int(first)), "the end of the first process")


def test_runs_begin_where_their_job_says(lane: Rig, tmp_path: Path) -> None:
    """The working folder of a job variable; a missing one fails the run with a message, and not the worker."""
    folder = tmp_path / "work"
    folder.mkdir()
    assert lane.ended(lane.run(lane.deploy(jobs.remember, working_dir=str(folder)))) == ["COMPLETED"]
    assert lane.lines(1)[0][4] == str(folder)
    lost = lane.run(lane.deploy(jobs.remember, working_dir="/no/such/folder"))
    assert lane.ended(lost) == ["CRASHED"] and "/no/such/folder" in lane.message(lost)


def test_a_process_is_replaced_after_so_many_runs(lane: Rig) -> None:
    """recycle_runs=2: the third run has another process."""
    deployment = lane.deploy(jobs.remember, recycle_runs=2, env={"JOB_VARIABLE": "recycled"})
    for _ in range(3):
        assert lane.ended(lane.run(deployment)) == ["COMPLETED"]
    first, second, third = (pid for pid, *_ in lane.lines(3))
    assert first == second != third


def test_a_process_that_swells_is_replaced(lane: Rig) -> None:
    """Grown by more than recycle_growth allows since its first run, and by more than allocators keep."""
    deployment = lane.deploy(jobs.swells, recycle_growth=1.1, env={"JOB_VARIABLE": "swollen"})
    for megabytes in (0, 1, 300, 0):
        assert lane.ended(lane.run(deployment, megabytes=megabytes)) == ["COMPLETED"]
    first, second, third, fourth = (pid for (pid,) in lane.lines(4))
    assert first == second == third != fourth


def test_a_run_without_a_gpu_goes_beside(lane: Rig, tmp_path: Path) -> None:
    """While the only lane is taken, a run with gpus=0 is done; another one that wants the lane stays in the queue."""
    release = tmp_path / "release"
    busy = lane.run(lane.deploy(jobs.until_released), release=str(release))
    lane.lines(1)
    deployment = lane.deploy(jobs.remember)
    waiting = lane.run(deployment)
    assert lane.ended(lane.run(lane.deploy(jobs.at_once, gpus=0))) == ["COMPLETED"]
    assert lane.state(waiting) == "SCHEDULED" and lane.state(busy) == "RUNNING"
    release.touch()
    assert lane.ended(busy, waiting) == ["COMPLETED", "COMPLETED"]


def test_one_run_for_each_gpu(rig: Rig, tmp_path: Path) -> None:
    """Two simulated GPUs: two runs at once, each sees its own alone; a run goes where its model is loaded."""
    rig.worker(GPUS="7,GPU-8f", CPU_SLOTS="0")
    release = tmp_path / "release"
    held = rig.deploy(jobs.until_released)
    both = [rig.run(held, release=str(release)) for _ in range(2)]
    rig.lines(2)
    release.touch()
    assert rig.ended(*both) == ["COMPLETED", "COMPLETED"]
    rig.told = tmp_path / "told-by-models"
    remember = rig.deploy(jobs.remember)
    for model in ("a", "b", "a", "b", "b", "a"):
        assert rig.ended(rig.run(remember, model=model)) == ["COMPLETED"]
    gpus = [gpu for _, _, gpu, *_ in rig.lines(6)]
    assert set(gpus) == {"7", "GPU-8f"}
    a, b = gpus[0], gpus[1]
    assert gpus == [a, b, a, b, b, a]
