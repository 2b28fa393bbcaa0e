"""A lane: one place where one run at a time is worked on. A lane of a GPU keeps its process between runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.job_variables import GpuJobConfiguration
from worker.warm_process import Ended, Resident, ResidentFailed

log = logging.getLogger(__name__)
Status = Literal["cold", "loading", "ready", "busy", "failed"]
Kind = Literal["gpu", "control"]
Start = Callable[[Mapping[str, str], Path], Awaitable[Resident]]
RETRY_S = (5.0, 15.0, 60.0, 300.0)
"""How long a lane whose process does not start waits before it tries again; the last for all further failures."""
GROWTH_BYTES_MIN = 256 << 20
"""Growth below this is no reason to replace a process: allocators keep some."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run left its lane.

    crash: the message of a run whose process could not end it itself. again: why it is to begin anew. cancelled: it
    was asked to stop.
    """

    crash: str | None = None
    again: str | None = None
    cancelled: bool = False


class Lane:
    """`environment` tells its processes which GPU is theirs; `start` makes a process (Resident.start)."""

    def __init__(self, name: str, kind: Kind, environment: Mapping[str, str], start: Start = Resident.start) -> None:
        self.name, self.kind = name, kind
        self._environment, self._start = dict(environment), start
        self._resident: Resident | None = None
        self._starting = asyncio.Lock()
        self._failures, self._failed_s = 0, 0.0
        self._cancelled = False
        self._grace_s = 120.0
        self.run_id: str | None = None
        self.affinity = ""
        """What its process has loaded: this lane is preferred for runs of the same."""
        self.idle_since_s = 0.0

    @property
    def status(self) -> Status:
        if self._starting.locked():
            return "loading"
        if self.run_id is not None:
            return "busy"
        if self._failures:
            return "failed"
        return "ready" if self._resident is not None and self._resident.alive else "cold"

    @property
    def free(self) -> bool:
        """Whether it takes a run now.

        A lane whose process did not start takes none until `warm_up` has started one, so that a broken host does not
        fail the whole queue. A control lane, which is not warmed up, tries again with a run after a while.
        """
        ready = not self._failures or (self.kind == "control" and self.rested)
        return self.run_id is None and ready and not self._starting.locked()

    @property
    def rested(self) -> bool:
        """Whether a lane that failed may try again; the waits grow."""
        wait_s = RETRY_S[min(self._failures, len(RETRY_S)) - 1] if self._failures else 0.0
        return time.monotonic() - self._failed_s >= wait_s

    def describe(self) -> dict[str, object]:
        resident = self._resident
        return {
            "name": self.name,
            "status": self.status,
            "run": self.run_id,
            "pid": resident.pid if resident is not None and resident.alive else None,
            "runs": resident.runs if resident is not None else 0,
            "rss_bytes": resident.rss_bytes if resident is not None else 0,
        }

    def take(self, run_id: str) -> None:
        """Hold the lane for a run, before that is taken off the queue."""
        self.run_id, self._cancelled = run_id, False

    def give_back(self) -> None:
        self.run_id, self.idle_since_s = None, time.monotonic()

    async def warm_up(self, environment: Mapping[str, str], folder: Path) -> None:
        """Start its process before there is a run for it. Idempotent. A failure is noted, not raised."""
        if self.run_id is None and self.rested and not self._starting.locked():
            with contextlib.suppress(ResidentFailed):
                await self._ready(environment, folder)

    async def execute(self, run_id: str, job: GpuJobConfiguration, affinity: str) -> Outcome:
        """Run one flow run, from start to end, within its time. Errors of the run or its process are in the outcome."""
        self._grace_s = float(job.cancel_grace_s)
        try:
            resident = await self._ready(job.lasting_environment(), job.working_dir or Path.cwd())
        except ResidentFailed as error:
            return Outcome(crash=f"{self.name}: {error}", cancelled=self._cancelled)
        if self._cancelled:
            return Outcome(cancelled=True)
        if affinity != self.affinity:
            self.affinity, resident.rss_first_bytes = affinity, 0
        try:
            ended = await asyncio.wait_for(resident.run(run_id), job.run_timeout_s)
        except asyncio.TimeoutError:
            await self._end_process(kill=True)
            return Outcome(
                crash=f"{self.name}: the run was ended after {job.run_timeout_s} s, the most that its deployment "
                "allows (job variable run_timeout_s)",
                cancelled=self._cancelled,
            )
        except BaseException:
            await self._end_process(kill=True)
            raise
        return await self._after(resident, ended, job)

    async def cancel(self, run_id: str) -> None:
        """Stop that run at its next step, or, after the grace its job allows, by killing its process."""
        if self.run_id != run_id:
            return
        self._cancelled, resident = True, self._resident
        if resident is None:  # its process is still to come: the run will not be begun
            return
        if self.kind == "control":
            resident.terminate(run_id)
        else:
            resident.cancel(run_id, "the run was cancelled")
        ends_s = time.monotonic() + self._grace_s
        while self.run_id == run_id and self._resident is resident and time.monotonic() < ends_s:
            await asyncio.sleep(0.1)
        if self.run_id == run_id and self._resident is resident:
            log.warning("%s: run %s did not stop in %.0f s: its process is killed", self.name, run_id, self._grace_s)
            await resident.kill()

    async def close(self) -> None:
        """End its process: at once if it works on a run. Idempotent."""
        await self._end_process(kill=self.run_id is not None)

    async def _ready(self, environment: Mapping[str, str], folder: Path) -> Resident:
        """A living process with that environment: the one it has, or another one."""
        wanted = {**environment, **self._environment}
        async with self._starting:
            resident = self._resident
            if resident is not None and resident.alive:
                if (resident.environment, resident.folder) == (wanted, folder):
                    return resident
                await self._end_process()
            self.affinity = ""
            try:
                self._resident = resident = await self._start(wanted, folder)
            except ResidentFailed as error:
                self._failures += 1
                self._failed_s = time.monotonic()
                log.error("%s: %s", self.name, error)
                raise
            self._failures = 0
            return resident

    async def _after(self, resident: Resident, ended: Ended | int, job: GpuJobConfiguration) -> Outcome:
        if isinstance(ended, int):
            self._resident = None
            return Outcome(crash=f"{self.name}: {_death(ended)}", cancelled=self._cancelled)
        retire = ended.retire or self._worn(resident, job)
        if self.kind == "control" or retire:
            if retire:
                log.info("%s: its process %d is replaced: %s", self.name, resident.pid, retire)
            await self._end_process()
        message = f"{self.name}: {ended.error}" if ended.error else None
        if ended.unreachable:
            return Outcome(again=message, cancelled=self._cancelled)
        return Outcome(crash=message, cancelled=self._cancelled)

    def _worn(self, resident: Resident, job: GpuJobConfiguration) -> str | None:
        if resident.runs >= job.recycle_runs:
            return f"it has done {resident.runs} runs"
        growth = resident.rss_bytes - resident.rss_first_bytes
        if growth > max(GROWTH_BYTES_MIN, (job.recycle_growth - 1) * resident.rss_first_bytes):
            return f"its memory grew by {growth / 1e6:.0f} MB to {resident.rss_bytes / 1e6:.0f} MB"
        return None

    async def _end_process(self, kill: bool = False) -> None:
        """The next run starts another one."""
        resident, self._resident = self._resident, None
        if resident is not None:
            await (resident.kill() if kill else resident.end())


def _death(status: int) -> str:
    """The message of a run whose process has died."""
    if status == -signal.SIGKILL:
        return (
            "its process was killed (signal 9), by the kernel when memory ran out or by hand: lower num_frames, height "
            "or width, or set memory options in the model's block"
        )
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"its process {how} in the middle of the run: see the worker's log. The next run gets a new one"
