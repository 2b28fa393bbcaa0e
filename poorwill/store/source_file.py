"""A local file on its way into a store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from poorwill.errors import WorkspaceError


class SourceFile:
    """A regular file, opened once: it stays the same file if its name is given to another. Any thread may read it.

    A context manager, which closes it. `size` is in bytes, when it was opened. Every method raises WorkspaceError, with
    the file's name, if it is missing, not a regular file, cannot be read, or has changed since it was opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for a writer.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        found = os.fstat(self._fd)
        self.size = found.st_size
        self._written_ns = found.st_mtime_ns
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise WorkspaceError(f"{self._path} is not a regular file: only those can be stored", path=self._path)

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def read(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`; never fewer."""
        try:
            data = os.pread(self._fd, length, start)
            while len(data) < length and (more := os.pread(self._fd, length - len(data), start + len(data))):
                data += more
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) < length:
            self.check()
            raise self._changed(f"reading ended at byte {start + len(data)} of {self.size}")
        return data

    def blocks(self, bytes_max: int) -> Iterator[bytes]:
        """All bytes in order, `bytes_max` at a time; then `check`."""
        for start in range(0, self.size, bytes_max):
            yield self.read(start, min(bytes_max, self.size - start))
        self.check()

    def check(self) -> None:
        """Raise unless it has the size and the modification time with which it was opened.

        To be called after all was read and before the object appears, which is then not a mixture.
        """
        found = os.fstat(self._fd)
        if found.st_size != self.size:
            raise self._changed(f"it has {found.st_size} bytes, and had {self.size}")
        if found.st_mtime_ns != self._written_ns:
            raise self._changed("it was written to")

    def _changed(self, how: str) -> WorkspaceError:
        return WorkspaceError(
            f"{self._path} changed while it was stored: {how}: store it when nothing writes to it", path=self._path
        )

    def _unreadable(self, error: OSError) -> WorkspaceError:
        return WorkspaceError(f"{self._path}: {error.strerror}: it cannot be stored", path=self._path)
