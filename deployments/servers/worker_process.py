"""A worker of the pool `gpu` as a process of this host. Nothing of Prefect is imported here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import Self

from deployments.catalogue import POOL
from deployments.servers.server_process import ServerProcess
from poorwill.errors import PoorwillError

STARTED = b"started!"
"""What a worker logs once it takes runs."""
START_TIMEOUT_S = 180.0


def worker_command(name: str, *, pool: str = POOL, kind: str = "gpu") -> list[str]:
    """The command that starts a worker of the pool."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", kind]
    return [*command, "--name", name]


class GpuWorkerProcess(ServerProcess):
    """`with GpuWorkerProcess(folder, environment) as worker:` starts it, waits until it takes runs, and stops it.

    environment: how to reach the Prefect server, and what POORWILL_* settings it is to have. `folder` holds its log
    and its state. Stopped, it lets its runs end, for up to `stop_timeout_s`.
    """

    stop_timeout_s = 30.0

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *, pool: str = POOL, kind: str = "gpu", name: str = "here"
    ) -> None:
        super().__init__(f"the worker {name}", folder / f"worker-{name}.log", START_TIMEOUT_S)
        self._command = worker_command(name, pool=pool, kind=kind)
        self._environment = {
            **os.environ,
            "POORWILL_STATE_DIR": str(folder / "state"),
            "POORWILL_SCRATCH_DIR": str(folder / "scratch"),
            **environment,
        }

    def start(self) -> Self:
        """Start it, and wait until it takes runs. PoorwillError with the end of its log, DeadlineExceeded."""
        logged = self.log_path.stat().st_size if self.log_path.exists() else 0
        if not self._start_once(
            self._command, self._environment, lambda: STARTED in self.log_path.read_bytes()[logged:]
        ):
            raise PoorwillError(f"{self._title} did not start: {self._last_line()}")
        return self
