"""What kills a run's process fails that run alone, with a message. A real worker, a real server."""

from __future__ import annotations

import pytest

from tests.worker import jobs
from tests.worker.rig import Rig

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("how", "state", "says"),
    [
        ("kill", "CRASHED", "killed (signal 9), by the kernel when memory ran out or by hand: lower num_frames"),
        ("exit", "CRASHED", "ended with status 3 in the middle of the run"),
        ("memory", "FAILED", "OutOfMemory: no room"),
        ("device", "FAILED", "DeviceFailed: an illegal access"),
    ],
)
def test_the_next_run_has_another_process(lane: Rig, how: str, state: str, says: str) -> None:
    """Killed, ended, out of memory, or a GPU's error, which stays in its context: each costs one run, one process."""
    dead = lane.run(lane.deploy(jobs.dies), how=how)
    assert lane.ended(dead) == [state]
    assert says in lane.message(dead)
    assert lane.ended(lane.run(lane.deploy(jobs.remember))) == ["COMPLETED"]
    (first, _), (second, *_) = lane.lines(2)
    assert first != second


def test_a_run_that_takes_too_long_is_ended(lane: Rig) -> None:
    """run_timeout_s: the process is killed, the run says why, the lane goes on."""
    slow = lane.run(lane.deploy(jobs.deaf, run_timeout_s=1))
    assert lane.ended(slow) == ["CRASHED"] and "run_timeout_s" in lane.message(slow)
    assert lane.ended(lane.run(lane.deploy(jobs.remember))) == ["COMPLETED"]
