"""File locks: one holder at a time, whatever happens to the holder or to the lock file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from poorwill.errors import Cancelled
from poorwill.file_lock import lock_directory, lock_file


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """None for everybody else until it is closed; a file is made for its owner alone."""
    path = tmp_path / "x.lock"
    with lock_file(path) as held:
        assert held.fd >= 0 and path.stat().st_mode & 0o777 == 0o600
        folder = os.open(tmp_path, os.O_RDONLY)
        assert lock_file(path) is None and lock_file("x.lock", dir_fd=folder) is None
        os.close(folder)
    with lock_file(path, create=False):
        pass


def test_a_directory_has_a_lock_of_its_own(tmp_path: Path) -> None:
    """Also by a symbolic link to it."""
    (tmp_path / "link").symlink_to(tmp_path)
    with lock_directory(tmp_path), lock_file(tmp_path / "x.lock"):
        assert lock_directory(tmp_path / "link") is None
    with lock_directory(tmp_path / "link"):
        pass


def test_what_is_not_there_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "x.lock", create=False)
    with pytest.raises(OSError, match="x"):
        lock_directory(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_it_ends_with_its_holder(tmp_path: Path) -> None:
    """A killed process holds nothing."""
    path = tmp_path / "x.lock"
    code = f"from poorwill.file_lock import lock_file; lock = lock_file({str(path)!r}); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        assert lock_file(path) is None
        holder.kill()
        holder.wait()
    with lock_file(path):
        pass


def test_waiting_for_it(tmp_path: Path) -> None:
    """Until it is free, for a bounded time, or until `check` stops it."""
    path = tmp_path / "x.lock"
    first = lock_file(path)
    assert first is not None
    began_s = time.monotonic()
    assert lock_file(path, timeout_s=0.2) is None and time.monotonic() - began_s >= 0.2

    def stop() -> None:
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        lock_file(path, timeout_s=60, check=stop)
    threading.Timer(0.2, first.close).start()
    with lock_file(path, timeout_s=60):
        pass


def test_a_lock_file_that_was_removed_is_not_the_lock(tmp_path: Path) -> None:
    """Whoever waited for the removed one goes on with the new one, and excludes others."""
    path = tmp_path / "x.lock"
    first = lock_file(path)
    assert first is not None
    path.unlink()
    with lock_file(path):
        first.close()
        assert lock_file(path) is None
    waiting_for = lock_file(path)
    assert waiting_for is not None

    def replace() -> None:
        path.unlink()
        path.touch()
        waiting_for.close()

    threading.Timer(0.2, replace).start()
    with lock_file(path, timeout_s=60):
        assert lock_file(path) is None
