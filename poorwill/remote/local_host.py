"""This machine as a host: the engine as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from typing import IO

from poorwill.errors import EngineLost

SILENCE_S_MAX = 60.0
LAST_WORDS_LINES = 40
# The rest of our environment, which may hold credentials, does not reach the engine, as on a rented machine.
_KEPT = frozenset(("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TMPDIR", "TZ"))
_KEPT_PREFIXES = ("LC_", "XDG_", "LD_", "PYTHON", "CUDA_", "NVIDIA_", "POORWILL_STATE")
# No BLAS is called; its threads would only cost memory and start-up time.
_DEFAULTS = {"OPENBLAS_NUM_THREADS": "1"}


class LocalHost:
    """Starts engines on this machine, with a few harmless variables of our environment and those of `environment`."""

    silence_s_max = SILENCE_S_MAX
    here = True

    def __init__(self, environment: Mapping[str, str] | None = None, python: str = sys.executable) -> None:
        self._environment = {**_DEFAULTS, **(environment or {})}
        self._python = python
        self._started: LocalChannel | None = None

    def describe(self) -> str:
        return "this machine"

    def start_ahead(self, work: str) -> LocalHost:
        """Start the engine that the next `start` returns: it gets ready for that work, such as "restore", meanwhile."""
        self._started = self._start(work)
        return self

    def start(self) -> LocalChannel:
        if self._started is not None:
            started, self._started = self._started, None
            return started
        return self._start()

    def _start(self, *work: str) -> LocalChannel:
        kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
        try:
            return LocalChannel([self._python, "-m", "poorwill.engine", *work], {**kept, **self._environment})
        except OSError as error:
            raise EngineLost(f"the engine does not start: {self._python}: {error.strerror}") from None


class LocalChannel:
    """An engine as a child process. It ends when its stdin closes, so also when this process is killed."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.requests, self.events = self.process.stdin, self.process.stdout
        self._words: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._listener = threading.Thread(target=self._listen, args=(self.process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, stream: IO[bytes]) -> None:
        for line in iter(lambda: stream.readline(4096), b""):
            self._words.append(line.decode("utf-8", "replace").rstrip())

    def last_words(self) -> str:
        self._listener.join(timeout=1.0)
        return "\n".join(self._words)

    def close(self, timeout_s: float = 10.0) -> None:
        # Closing may have to wait, for a write to an engine that does not read.
        force = threading.Timer(timeout_s, self.process.kill)
        force.daemon = True
        force.start()
        try:
            self.requests.close()
        except OSError:
            pass  # a broken pipe: it has ended already
        try:
            self.process.wait(2 * timeout_s)
        finally:
            force.cancel()
