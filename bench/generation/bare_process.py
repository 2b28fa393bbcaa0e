"""The bare loop, seen from the benchmark: a process that waits for its turn."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.measure import CommandFailed
from deployments.servers import child_process

ANSWER_TIMEOUT_S = 300.0
"""Also for importing torch and loading, on a busy machine."""


class BareProcess:
    """`with BareProcess(model, picture, arguments, log_path) as bare:`, then `bare.once()` again and again.

    Between turns it sleeps. It ends with its stdin, so with the process that started it. CommandFailed.
    """

    def __init__(self, model: Path, picture: Path, arguments: dict[str, Any], log_path: Path) -> None:
        self._command = [
            sys.executable,
            "-m",
            "bench.generation.bare_loop",
            str(model),
            str(picture),
            json.dumps(arguments),
        ]
        self._log_path = log_path

    def __enter__(self) -> BareProcess:
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def once(self) -> float:
        """The seconds that one video took."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("once\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: there will be no answer
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
        if not line:
            raise CommandFailed(f"the bare loop gave no answer: {child_process.last_line(self._log_path)}")
        return line

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
