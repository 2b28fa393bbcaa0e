"""A rented machine without a network between: real commands by a real shell, in a home and with a PATH of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from poorwill.errors import DeadlineExceeded, EngineLost
from poorwill.remote.base import OUTPUT_BYTES_MAX, Finished


class LocalShell:
    """Runs `sh -c` with nothing of our environment. A Shell."""

    def __init__(self, home: Path, path: str, **environment: str) -> None:
        self.home = home
        self.environment = {"HOME": str(home), "PATH": path, **environment}
        self.commands: list[str] = []
        self._running: subprocess.Popen[bytes] | None = None
        self._was_cut = False

    def describe(self) -> str:
        return "user@machine"

    def run(self, command: str, *, stdin: Iterable[bytes] = (), timeout_s: float) -> Finished:
        self.commands.append(command)
        self._was_cut = False
        process = self._running = subprocess.Popen(
            ["/bin/sh", "-c", command], env=self.environment, cwd=self.home if self.home.is_dir() else "/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        with ThreadPoolExecutor(3) as pool:
            feeding = pool.submit(self._feed, process.stdin, stdin)
            stdout, stderr = (pool.submit(stream.read) for stream in (process.stdout, process.stderr))
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.cut()
                raise DeadlineExceeded(f"the command did not end within {timeout_s:g} s") from None
            feeding.result()
        if self._was_cut:
            raise EngineLost("the connection to user@machine broke")
        return Finished(process.returncode, stdout.result()[:OUTPUT_BYTES_MAX], stderr.result()[:OUTPUT_BYTES_MAX])

    def _feed(self, pipe: IO[bytes], stdin: Iterable[bytes]) -> None:
        with suppress(BrokenPipeError):
            for data in stdin:
                pipe.write(data)
        with suppress(BrokenPipeError):
            pipe.close()

    def cut(self) -> None:
        """What a connection does that breaks and takes all with it: SIGKILL for everything the command started."""
        self._was_cut = True
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)


def place(folder: Path, name: str, script: str) -> Path:
    """An executable script in a folder for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)
    return path
