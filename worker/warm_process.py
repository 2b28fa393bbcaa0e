"""A resident process, seen from the worker: started once, given one run after another, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import messages

STOP_GRACE_S = 5.0
COMMAND = (sys.executable, "-m", "worker.warm_process_main")


class ResidentFailed(Exception):
    """The process could not be started. One line."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, as its process reports.

    error: what went wrong outside of the flow. unreachable: the error is that Prefect's server was away. retire: why
    the process should not be given another run.
    """

    error: str | None = None
    unreachable: bool = False
    retire: str | None = None


class Resident:
    """One process: `await Resident.start(...)`, then `run` as often as needed, one run at a time, then `end`."""

    def __init__(self, process: asyncio.subprocess.Process, environment: Mapping[str, str], folder: Path) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self.environment, self.folder = dict(environment), folder
        self.runs = 0
        self.rss_bytes = 0
        self.rss_first_bytes = 0
        self._killed = False

    @classmethod
    async def start(
        cls,
        environment: Mapping[str, str],
        folder: Path,
        *,
        command: Sequence[str] = COMMAND,
        ready_timeout_s: float = 300.0,  # importing torch from a cold network disk takes minutes
    ) -> Resident:
        """Start it and wait until it has imported what runs need. `environment` is added to this process's own.

        Await it on the main thread: the kernel ends the child with the thread that started it. ResidentFailed.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command, str(os.getpid()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **environment}, cwd=folder, start_new_session=True, limit=messages.LINE_BYTES_MAX,
            )  # fmt: skip
        except OSError as error:
            raise ResidentFailed(f"its process does not start: {error}") from error
        resident = cls(process, environment, folder)
        try:
            answer = await asyncio.wait_for(resident._answer(), ready_timeout_s)
        except asyncio.TimeoutError:
            await resident.kill()
            raise ResidentFailed(f"its process was not ready after {ready_timeout_s:.0f} s") from None
        except BaseException:
            await resident.kill()
            raise
        if answer is None:
            returncode = await resident._exit_status()
            raise ResidentFailed(f"its process ended with {returncode} while it was loading: see the worker's log")
        return resident

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def run(self, flow_run_id: str) -> Ended | int:
        """Have it run one flow run, and wait for the end of that, or of the process: its exit status, negative for a
        signal."""
        with contextlib.suppress(OSError):  # it has just died: there is no answer then
            self._stdin.write(messages.encode(run=flow_run_id))
            await self._stdin.drain()
        answer = await self._answer()
        if answer is None:
            return await self._exit_status()
        self.runs += 1
        self.rss_bytes = int(answer["rss_bytes"])
        self.rss_first_bytes = self.rss_first_bytes or self.rss_bytes
        return Ended(answer["error"], bool(answer["unreachable"]), answer["retire"])

    def cancel(self, flow_run_id: str, why: str) -> None:
        """Ask it to stop that run at its next step; it may be over by then."""
        with contextlib.suppress(OSError):
            self._stdin.write(messages.encode(cancel=flow_run_id, why=why))

    def terminate(self, flow_run_id: str) -> None:
        """Ask it to stop that run where it is, by an exception in the flow, so that its `finally` clauses run."""
        with contextlib.suppress(OSError):
            self._stdin.write(messages.encode(terminate=flow_run_id))

    async def kill(self) -> int:
        """SIGKILL, also to what it has started in its session. Returns its exit status. Idempotent."""
        if not self._killed:  # once: afterwards the number may be another process group's
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return await self._process.wait()

    async def end(self, grace_s: float = STOP_GRACE_S) -> None:
        """Let it go between two runs. Idempotent."""
        self._stdin.close()
        await self._exit_status(grace_s)

    async def _exit_status(self, grace_s: float = STOP_GRACE_S) -> int:
        """Wait for the process to end by itself, for `grace_s`, and kill it then."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_s)
        return await self.kill()

    async def _answer(self) -> dict[str, Any] | None:
        """The process's next message; None if it ended, or wrote what is not a message: the caller then ends it."""
        try:
            line = await self._stdout.readline()
            return messages.decode(line) if line.endswith(b"\n") else None
        except ValueError:
            return None
