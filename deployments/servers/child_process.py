"""Server processes that end with the process that started them, however that ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_GRACE_S = 5.0

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


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on that port of this host now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier one that are still fading out do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def start(
    command: Sequence[str], *, environment: Mapping[str, str], log_path: Path, name: str
) -> subprocess.Popen[bytes]:
    """Start `command` (an absolute path and its arguments) in its own session, its output added to the log.

    It is started from a thread that lives as long as it does: the parent-death signal is sent when the
    *thread* that forked ends, so a server started from a worker thread would otherwise die with that thread
    while the process lives on. Raises OSError.
    """
    guarded = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    started: list[subprocess.Popen[bytes] | OSError] = []
    ready = threading.Event()

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
            started.append(error)
            ready.set()
            return
        started.append(process)
        ready.set()
        process.wait()

    threading.Thread(target=keep, name=name, daemon=True).start()
    ready.wait()
    outcome = started[0]
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    """Send `how`, and SIGKILL if it is still there after STOP_GRACE_S."""
    process.send_signal(how)
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_GRACE_S)


def last_line(log_path: Path) -> str:
    """The end of a log, for an error message."""
    try:
        lines = log_path.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else f"its log {log_path} is empty"
