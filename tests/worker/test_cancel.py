"""Cancelling, at each moment of a run. A real worker, a real server."""

from __future__ import annotations

from pathlib import Path

from tests.worker import jobs
from tests.worker.rig import Rig


def test_a_run_stops_at_its_next_step(lane: Rig) -> None:
    """Cancelled, by the flow itself, and the process with all it has loaded takes the next run."""
    stopped = lane.run(lane.deploy(jobs.until_stopped))
    lane.lines(1)
    lane.cancel(stopped)
    assert lane.ended(stopped) == ["CANCELLED"]
    assert lane.ended(lane.run(lane.deploy(jobs.remember))) == ["COMPLETED"]
    (first, began), (second, ended), (third, *_) = lane.lines(3)
    assert first == second == third and (began, ended) == ("began", "stopped")


def test_a_run_that_does_not_stop_is_killed(lane: Rig) -> None:
    """After cancel_grace_s its process goes with it; the run is cancelled, not crashed, and the next one runs."""
    deaf = lane.run(lane.deploy(jobs.deaf, cancel_grace_s=1))
    lane.lines(1)
    lane.cancel(deaf)
    assert lane.ended(deaf) == ["CANCELLED"]
    assert lane.ended(lane.run(lane.deploy(jobs.remember))) == ["COMPLETED"]
    (first, _), (second, *_) = lane.lines(2)
    assert first != second


def test_a_run_without_a_gpu_cleans_up(lane: Rig) -> None:
    """It gets SIGTERM, which Prefect raises in the flow: its `finally` runs."""
    control = lane.run(lane.deploy(jobs.deaf, gpus=0))
    lane.lines(1)
    lane.cancel(control)
    assert lane.ended(control) == ["CANCELLED"]
    assert [words for _, *words in lane.lines(2)] == [["began"], ["cleaned", "up"]]


def test_a_run_in_the_queue_never_begins(lane: Rig, tmp_path: Path) -> None:
    """Cancelled while another one has the lane."""
    release = tmp_path / "release"
    busy = lane.run(lane.deploy(jobs.until_released), release=str(release))
    lane.lines(1)
    queued = lane.run(lane.deploy(jobs.remember))
    lane.cancel(queued)
    assert lane.ended(queued) == ["CANCELLED"]
    release.touch()
    assert lane.ended(busy) == ["COMPLETED"] and len(lane.lines()) == 2
