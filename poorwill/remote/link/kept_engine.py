"""The engine process of a keeper: pipes that never block, the end of its stderr; it ends with the keeper."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable

LAST_WORDS_LINES = 40
LINE_BYTES_MAX = 4096
READ_BYTES = 64 << 10
DRAIN_S = 1.0
"""How long after the engine's end a child of it may still hold its output open."""
NOT_STARTED = 127
_PR_SET_PDEATHSIG = 1


class KeptEngine:
    """Starts `command` in a process group of its own. It inherits `keep_fd`, and gets SIGKILL when this process ends.

    To be made, and used, by the main thread alone: for the kernel the end of that thread is the end of the parent.
    A command that cannot be started counts as an engine that has ended with status 127.
    """

    def __init__(self, command: list[str], keep_fd: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.status: int | None = None
        self._ended_s = 0.0
        self._words: deque[bytes] = deque(maxlen=LAST_WORDS_LINES)
        self._line = b""
        self._process: subprocess.Popen[bytes] | None = None
        self.stdin = self.stdout = self.stderr = -1
        try:
            self._start(command, keep_fd)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.status, self._line = NOT_STARTED, f"{command[0]} does not start: {error}".encode()

    def _start(self, command: list[str], keep_fd: int) -> None:
        libc, keeper = ctypes.CDLL(None), os.getpid()

        def die_with_keeper() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != keeper:
                os._exit(NOT_STARTED)

        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            start_new_session=True, pass_fds=(keep_fd,), preexec_fn=die_with_keeper,
        )  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        self._process = process
        self.stdin, self.stdout, self.stderr = (
            _own(f.fileno()) for f in (process.stdin, process.stdout, process.stderr)
        )
        for file in (process.stdin, process.stdout, process.stderr):
            file.close()

    @property
    def over(self) -> bool:
        """Whether it has ended and all it wrote was read."""
        return self.status is not None and self.stdout < 0

    def write(self, data: bytes | bytearray) -> int:
        """How much of `data` it takes now. Drops all of it if the engine does not read any more."""
        if self.stdin < 0:
            return len(data)
        try:
            return os.write(self.stdin, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.end_input()
            return len(data)

    def end_input(self) -> None:
        self.stdin = _closed(self.stdin)

    def read(self, bytes_max: int) -> bytes:
        """Its output so far; b"" if there is none at the moment, or at the end."""
        data = _read(self.stdout, min(bytes_max, READ_BYTES))
        if data == b"" or (data is None and self.status is not None and self._clock() >= self.drained_s()):
            self.stdout = _closed(self.stdout)
        return data or b""

    def drained_s(self) -> float:
        """Until when its output is awaited after it has ended."""
        return self._ended_s + DRAIN_S

    def listen(self) -> None:
        data = _read(self.stderr, READ_BYTES)
        if data == b"":
            self.stderr = _closed(self.stderr)
        *lines, rest = (self._line + (data or b"")).split(b"\n")
        self._words.extend(line[:LINE_BYTES_MAX] for line in lines[-LAST_WORDS_LINES:])
        self._line = rest[:LINE_BYTES_MAX]

    def last_words(self) -> str:
        lines = [*self._words, *([self._line] if self._line else [])]
        return b"\n".join(lines[-LAST_WORDS_LINES:]).decode("utf-8", "replace")

    def reap(self) -> None:
        """Find out whether it has ended."""
        if self._process is None or self.status is not None:
            return
        self.status = self._process.poll()
        if self.status is not None:
            self._ended_s = self._clock()
            self.end_input()
            self.listen()

    def kill(self) -> None:
        """Kill it and its children. Idempotent."""
        if self._process is not None and self.status is None:
            os.killpg(self._process.pid, signal.SIGKILL)


def _own(fd: int) -> int:
    own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.set_blocking(own, False)
    return own


def _closed(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


def _read(fd: int, bytes_max: int) -> bytes | None:
    """b"" at the end, None if there is nothing now."""
    if fd < 0:
        return b""
    try:
        return os.read(fd, bytes_max)
    except BlockingIOError:
        return None
    except OSError:
        return b""
