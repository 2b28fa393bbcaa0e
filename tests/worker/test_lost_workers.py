"""Runs of workers that die are begun anew by others: nothing is lost or stays Running. SIGKILL of real workers."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.worker import jobs
from tests.worker.rig import Rig

pytestmark = pytest.mark.long


@pytest.mark.parametrize("same_host", [True, False], ids=["seen by its lock", "seen by its heartbeats"])
def test_the_run_of_a_killed_worker_begins_anew(rig: Rig, tmp_path: Path, same_host: bool) -> None:
    """Its process dies with it; another worker, of the same host or (with another state folder) of another one,
    puts the run back into the queue and does it. A run that was being cancelled is cancelled."""
    release = tmp_path / "release"
    first = rig.worker("first", CPU_SLOTS="2", STATE_DIR=str(tmp_path / "host-1"), heartbeat_s="1")
    lost = rig.run(rig.deploy(jobs.until_released), release=str(release))
    stopping = rig.run(rig.deploy(jobs.deaf))
    processes = [psutil.Process(int(pid)) for pid, _ in rig.lines(2)]
    rig.cancel(stopping)
    first.kill()
    assert psutil.wait_procs(processes, timeout=10)[1] == []
    assert rig.state(lost) == "RUNNING" and rig.state(stopping) == "CANCELLING"

    state = tmp_path / ("host-1" if same_host else "host-2")
    rig.worker("second", STATE_DIR=str(state), heartbeat_s="1")
    rig.lines(3)
    release.touch()
    assert rig.ended(lost, stopping) == ["COMPLETED", "CANCELLED"]
    assert [words for _, *words in rig.lines()].count(["ended"]) == 1
    assert rig.client.read_flow_run(lost).run_count == 2
