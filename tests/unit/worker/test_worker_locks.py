"""The locks by which the workers of a host find dead ones; a process that is killed drops its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from worker.worker_locks import Presence

HOLDER = """
import sys
from pathlib import Path
from worker.worker_locks import Presence
with Presence(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_worker_that_was_killed_is_gone(tmp_path: Path) -> None:
    """Alive while it holds its lock, gone once SIGKILL has taken it."""
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


def test_old_lock_files_are_removed(tmp_path: Path) -> None:
    """When a worker starts; but not those of yesterday, nor those that are held, however old."""
    with Presence(tmp_path, "old but alive 1"):
        for name in ("dead_2", "old_but_alive_1"):
            (tmp_path / f"{name}.lock").touch()
            os.utime(tmp_path / f"{name}.lock", (0, 0))
        (tmp_path / "dead_3.lock").touch()
        with Presence(tmp_path, "me 0"):
            assert sorted(path.stem for path in tmp_path.iterdir()) == ["dead_3", "me_0", "old_but_alive_1"]


def test_an_unknown_worker_is_not_gone(tmp_path: Path) -> None:
    """A worker of another host, or one that ended in good order, has no lock file here. And not the worker itself."""
    with Presence(tmp_path, "me 0") as mine:
        with Presence(tmp_path, "other 1"):
            assert not mine.is_gone("other 1")
        assert not mine.is_gone("other 1") and not mine.is_gone("me 0") and not mine.is_gone("../../etc/passwd")
