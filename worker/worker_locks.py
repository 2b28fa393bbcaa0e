"""Which workers of this host are alive: each holds a lock that the kernel drops with its process."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from poorwill.file_lock import FileLock, lock_file

REMEMBERED_S = 7 * 24 * 3600.0


class Presence:
    """`with Presence(folder, name):` shows that the worker of that name lives. Names are never used twice."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._path = folder, _path(folder, name)
        self._held: FileLock | None = None

    def __enter__(self) -> Presence:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_old()
        self._held = lock_file(self._path)
        return self

    def __exit__(self, *error: object) -> None:
        if self._held is not None:
            self._path.unlink(missing_ok=True)
            self._held.close()

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
        lock = lock_file(path, create=False)
    except OSError:
        return False
    if lock is not None:
        lock.close()
    return lock is not None


def _path(folder: Path, name: str) -> Path:
    return folder / (name.replace("/", "_").replace(" ", "_") + ".lock")
