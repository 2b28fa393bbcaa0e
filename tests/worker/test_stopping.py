"""SIGTERM: a worker lets its runs end, and gives back what does not. Its health meanwhile. Real workers."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from deployments.servers.loopback import free_port
from tests.worker import jobs
from tests.worker.rig import Rig, until


def health(port: int) -> dict[str, object]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return {"code": answer.status, **json.load(answer)}
    except urllib.error.HTTPError as error:
        return {"code": error.code, **json.load(error)}


def test_a_drained_worker_ends_its_runs_and_takes_no_other(rig: Rig, tmp_path: Path) -> None:
    """The run ends as if nothing had happened, the next one stays in the queue, the exit status is 0, no process is
    left. Health says ready, busy, draining."""
    release, port = tmp_path / "release", free_port()
    worker = rig.worker(HEALTH=f"127.0.0.1:{port}")
    until(lambda: health(port)["status"] == "ready", "ready")
    deployment = rig.deploy(jobs.until_released)
    running = rig.run(deployment, release=str(release))
    ((pid, _),) = rig.lines(1)
    busy = health(port)
    assert (busy["code"], busy["status"], busy["draining"]) == (200, "busy", False)
    lanes = {lane["name"]: lane for lane in busy["lanes"]}  # type: ignore[attr-defined]
    assert lanes["cpu 0"]["run"] == str(running) and lanes["cpu 0"]["pid"] == int(pid)

    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    until(lambda: health(port)["draining"], "draining")
    waiting = rig.run(deployment, release=str(release))
    release.touch()
    assert rig.ended(running) == ["COMPLETED"]
    assert worker.stop() == 0
    assert rig.state(waiting) == "SCHEDULED" and not psutil.pid_exists(int(pid))


def test_a_run_that_does_not_end_in_time_goes_back(rig: Rig, tmp_path: Path) -> None:
    """After the drain timeout the run is in the queue again, and another worker does it."""
    release = tmp_path / "release"
    worker = rig.worker("first", DRAIN_TIMEOUT_S="1")
    run = rig.run(rig.deploy(jobs.until_released), release=str(release))
    rig.lines(1)
    assert worker.stop() == 0
    assert rig.state(run) == "SCHEDULED" and "goes back into the queue" in rig.message(run)
    release.touch()
    rig.worker("second")
    assert rig.ended(run) == ["COMPLETED"]


def test_a_host_that_cannot_start_processes_says_so_and_takes_no_runs(rig: Rig) -> None:
    """A module that cannot be imported: health answers 503, and the queue is left to other workers."""
    port = free_port()
    rig.worker(HEALTH=f"127.0.0.1:{port}", PRELOAD="no.such.module")
    failed = until(lambda: (found := health(port))["status"] == "failed" and found, "failed")
    assert failed["code"] == 503
    run = rig.run(rig.deploy(jobs.at_once))
    rig.worker("healthy")
    assert rig.ended(run) == ["COMPLETED"]
