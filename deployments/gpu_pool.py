"""The work pool of type `gpu`, what is deployed to it, and a worker of it on this host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import EntrypointType
from prefect.workers.base import BaseWorker

from deployments import child_process

POOL = "gpu"
GENERATE, CONTROL = "generate", "control"
DEPLOYMENT = "poorwill"
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0
_POLL_S = 0.1


class WorkerProcessError(Exception):
    """A worker could not be started. One line."""


def create_pool(name: str = POOL) -> WorkPool:
    """The pool and its two queues, as they are where they exist already."""
    kind = BaseWorker.get_worker_class_from_type("gpu")
    if kind is None:
        raise WorkerProcessError("Prefect does not know the worker type gpu: install Poorwill into this environment")
    template = kind.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="gpu", base_job_template=template))
        except ObjectAlreadyExists:
            pass
        for queue in (GENERATE, CONTROL):
            try:
                client.create_work_queue(name=queue, work_pool_name=name)
            except ObjectAlreadyExists:
                pass
        return client.read_work_pool(name)


def deploy(
    flow: Flow[..., Any], *, pool: str = POOL, gpus: int = 0, job_variables: Mapping[str, Any] | None = None
) -> UUID:
    """Deploy a flow as `<its name>/poorwill`, to the queue `generate` if it needs a GPU, else to `control`.

    By its module's path: a file's path would put that file's folder first on sys.path. Idempotent.
    """
    deployment: Any = flow.to_deployment(
        DEPLOYMENT,
        work_pool_name=pool,
        work_queue_name=GENERATE if gpus else CONTROL,
        job_variables={"gpus": gpus, **(job_variables or {})},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return UUID(str(deployment.apply()))


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
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", self._pool, "--type", self._kind]
        self._folder.mkdir(parents=True, exist_ok=True)
        already = self.log_path.stat().st_size if self.log_path.exists() else 0
        self._process = child_process.start(
            [*command, "--name", self._name],
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
