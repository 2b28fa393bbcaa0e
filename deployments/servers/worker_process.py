"""A worker of the pool `gpu` as a process of this host. Nothing of Prefect is imported here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from deployments.catalogue import POOL
from deployments.servers import child_process

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.1


class WorkerProcessError(Exception):
    """A worker could not be started. One line."""


def worker_command(name: str, *, pool: str = POOL, kind: str = "gpu") -> list[str]:
    """What starts a worker of the pool."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", kind]
    return [*command, "--name", name]


class GpuWorkerProcess:
    """One worker process. `with GpuWorkerProcess(folder, environment) as worker:` starts it and stops it.

    environment: how to reach the Prefect server, and what POORWILL_* settings it is to have. `folder` holds its log
    and its state. It ends with the process that started it.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *, pool: str = POOL, kind: str = "gpu", name: str = "here"
    ) -> None:
        self.log_path = folder / f"worker-{name}.log"
        self._folder, self._pool, self._kind, self._name = folder, pool, kind, name
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None when it is not running."""
        return self._process.pid if self._process is not None else None

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> GpuWorkerProcess:
        """Start it, and wait until it takes runs. WorkerProcessError with the end of its log."""
        self._folder.mkdir(parents=True, exist_ok=True)
        already = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = child_process.start(
            worker_command(self._name, pool=self._pool, kind=self._kind),
            environment={
                **os.environ,
                "POORWILL_STATE_DIR": str(self._folder / "state"),
                "POORWILL_SCRATCH_DIR": str(self._folder / "scratch"),
                **self._environment,
            },
            log_path=self.log_path,
            name=f"worker-{self._name}",
        )
        ends_s = time.monotonic() + timeout_s
        while b"started!" not in self.log_path.read_bytes()[already:]:
            if self._process.poll() is not None or time.monotonic() > ends_s:
                self.kill()
                raise WorkerProcessError(f"the worker did not start: {child_process.last_line(self.log_path)}")
            time.sleep(_POLL_S)
        return self

    def kill(self) -> None:
        """SIGKILL, as a crash would look. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """SIGTERM: it lets its runs end; SIGKILL after `timeout_s`. Returns its exit status, None if it did not run."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(STOP_TIMEOUT_S)

    def __enter__(self) -> GpuWorkerProcess:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
