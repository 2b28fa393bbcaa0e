"""Processes that end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

STOP_TIMEOUT_S = 5.0

# Run by a bare interpreter that becomes the command. PR_SET_PDEATHSIG (1) survives exec; the second look
# at the parent closes the gap in which it may already have died.
_DIE_WITH_PARENT = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start(
    command: Sequence[str], *, environment: Mapping[str, str], log_path: Path, name: str
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path and its arguments) in its own session, its output added to the log.

    It is started from a thread that lives as long as it does: the parent-death signal is sent when the
    *thread* that forked ends, so a server started from a worker thread would otherwise die with that thread
    while the process lives on. Raises OSError.
    """
    guarded = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        try:
            with open(log_path, "ab") as log:
                process = subprocess.Popen(
                    guarded,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=keep, name=name, daemon=True).start()
    return started.result()


def end(process: subprocess.Popen[bytes], how: signal.Signals, timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Send `how`, and SIGKILL if it is still there after `timeout_s`. Returns its exit status."""
    process.send_signal(how)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(STOP_TIMEOUT_S)


def last_line(log_path: Path) -> str:
    """The end of a log, for an error message."""
    try:
        lines = log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else f"its log {log_path} is empty"
