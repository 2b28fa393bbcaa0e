"""A local file on its way into a store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from types import TracebackType

from poorwill.errors import WorkspaceError


class SourceFile:
    """A regular file, opened once, so that it stays the same file if its name gets another; read by any thread.

    WorkspaceError, which names the file, from every method: it is missing, not a regular file, cannot be read,
    or is not what it was when it was opened. `size` in bytes is of that moment. A context manager, which
    closes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            # Without O_NONBLOCK a FIFO would wait here for a writer.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreadable(error) from error
        found = os.fstat(self._fd)
        self.size = found.st_size
        self._written_ns = found.st_mtime_ns
        if not stat.S_ISREG(found.st_mode):
            os.close(self._fd)
            raise WorkspaceError(f"{self._path} is not a regular file, and only those are stored", path=self._path)

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        """All of it in order, `bytes_max` at a time, and `check` at the end."""
        for start in range(0, self.size, bytes_max):
            yield self.read(start, min(bytes_max, self.size - start))
        self.check()

    def check(self) -> None:
        """That it still has the size and the modification time it was opened with.

        To be called when all was read and before the object appears, which is then not a mixture.
        """
        found = os.fstat(self._fd)
        if found.st_size != self.size:
            raise self._changed(f"it has {found.st_size} bytes, and had {self.size}")
        if found.st_mtime_ns != self._written_ns:
            raise self._changed("it was written to")

    def _changed(self, how: str) -> WorkspaceError:
        return WorkspaceError(
            f"{self._path} changed while it was stored: {how}: store it when nobody writes to it", path=self._path
        )

    def _unreadable(self, error: OSError) -> WorkspaceError:
        return WorkspaceError(f"{self._path}: {error.strerror}: it cannot be stored", path=self._path)
