"""Which workers of this host are alive: each holds a lock that the kernel drops with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

REMEMBERED_S = 7 * 24 * 3600.0


class Presence:
    """`with Presence(folder, name):` shows that the worker of that name lives. Names are never used twice."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, _path(folder, name)
        self._held = -1

    def __enter__(self) -> Presence:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_old()
        self._held = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._held)

    def is_gone(self, name: str) -> bool:
        """Whether that worker ran on this host and has died. False for a worker that left no lock file here."""
        return _is_free(_path(self._folder, name))

    def _forget_old(self) -> None:
        """Remove the lock files of workers that were killed long ago: their runs are recovered by now, or never."""
        for path in self._folder.glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > REMEMBERED_S and _is_free(path):
                    path.unlink()


def _is_free(path: Path) -> bool:
    """Whether the lock file is there and nobody holds it."""
    try:
        seen = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(seen)


def _path(folder: Path, name: str) -> Path:
    return folder / (name.replace("/", "_").replace(" ", "_") + ".lock")
