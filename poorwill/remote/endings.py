"""Why a channel ended, in words."""

from __future__ import annotations

import signal


def farewell(status: int, stderr: str) -> str:
    """The engine's last lines, and one that sums them up with its exit status, which is negative for a signal."""
    lines = stderr.splitlines()
    try:
        summary = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    except ValueError:
        summary = f"killed by signal {-status}"
    return "\n".join([*lines, f"{summary}: {lines[-1]}" if lines else summary])


def why(error: Exception) -> str:
    return str(error) or type(error).__name__
