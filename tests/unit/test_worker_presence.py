"""Locks by which workers of one host know of each other; a process that is killed drops its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from worker.presence import Presence

HOLDER = """
import sys
from pathlib import Path
from worker.presence import Presence
with Presence(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_worker_that_was_killed_is_gone(tmp_path: Path) -> None:
    """Alive while it holds its lock, gone once SIGKILL has taken it; forgotten when that was noted."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "other 1"]
    with Presence(tmp_path, "me 0") as mine:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            assert not mine.is_gone("other 1")
        finally:
            holder.kill()
            holder.communicate(timeout=10)
        assert mine.is_gone("other 1") and mine.is_gone("other 1")
        mine.forget("other 1")
        assert not mine.is_gone("other 1")


def test_nothing_is_said_of_whom_nobody_knows(tmp_path: Path) -> None:
    """Not of this host, or ended in good order: its lock file is not there. And not of oneself."""
    with Presence(tmp_path, "me 0") as mine:
        with Presence(tmp_path, "other 1"):
            assert not mine.is_gone("other 1")
        assert not mine.is_gone("other 1") and not mine.is_gone("me 0") and not mine.is_gone("../../etc/passwd")
