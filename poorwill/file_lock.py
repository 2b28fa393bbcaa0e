"""Exclusive locks on files and directories (flock): the kernel drops one when its last holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

POLL_S = 0.05
_REMOVALS_MAX = 10

Path = str | os.PathLike[str]


class FileLock:
    """A lock that is held. Closed by `close` or the end of a `with`; a process that inherits `fd` holds it as well."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def lock_file(
    path: Path,
    *,
    create: bool = True,
    dir_fd: int | None = None,
    timeout_s: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> FileLock | None:
    """Lock the file at `path`, which is made if it is missing and `create` is set; None if somebody else holds it.

    Waits up to `timeout_s` for it; `check` is called before every try, and may raise. Others may remove the file
    meanwhile: the lock is always that of the file which has the name now. OSError for a file that cannot be opened.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    return _lock(path, flags, dir_fd, timeout_s, check)


def lock_directory(path: Path, timeout_s: float = 0.0) -> FileLock | None:
    """Lock a directory; None if somebody else holds it for `timeout_s`. OSError if it cannot be opened."""
    return _lock(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, None, timeout_s, lambda: None)


def _lock(path: Path, flags: int, dir_fd: int | None, timeout_s: float, check: Callable[[], None]) -> FileLock | None:
    ends_s, removals = time.monotonic() + timeout_s, 0
    while removals < _REMOVALS_MAX:
        check()
        fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(fd, path, dir_fd):
                return FileLock(fd)
        except OSError as error:
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise
            if time.monotonic() >= ends_s:
                return None
            time.sleep(POLL_S)
        else:
            os.close(fd)  # the file was removed after it was opened
            removals += 1
    return None


def _is_named(fd: int, path: Path, dir_fd: int | None) -> bool:
    try:
        return os.path.samestat(os.stat(path, dir_fd=dir_fd), os.fstat(fd))
    except FileNotFoundError:
        return False
