"""Files of weights on their way from a store into a folder: in pieces, several at once, each file hashed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blake3

from poorwill.errors import Corrupt
from poorwill.media.stop import Stop
from poorwill.media.weights_manifest import WeightsFile
from poorwill.store.base import Store
from poorwill.store.directory_tree import sync_folder

PIECE_BYTES = 8 << 20
THREADS = 8
"""Each holds one piece in memory."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

OnBytes = Callable[[int, int], None]


def file_digest(path: Path) -> str:
    """The BLAKE3 of a file in hexadecimal digits; takes little memory. OSError."""
    return blake3.blake3().update_mmap(path).hexdigest()


def download(
    store: Store,
    key_of: Callable[[str], str],
    folder: Path,
    files: Sequence[WeightsFile],
    on_bytes: OnBytes,
    stop: Stop,
) -> None:
    """Write `files` below `folder`, where none of them is yet, and put them on disk.

    `key_of` gives the object of a path. Corrupt for a file that has another hash, which is removed; Cancelled between
    two pieces; OSError of the disk and errors of the store pass. The first error ends it; pieces that are under way
    are waited for.
    """
    _Download(store, key_of, folder, files, on_bytes, stop).run()
    for above, _, _ in os.walk(folder):
        sync_folder(above)


class _Unfinished:
    """A file of which pieces are missing."""

    def __init__(self, file: WeightsFile, path: Path) -> None:
        self.file, self.path = file, path
        self.pieces_left = max(1, -(-file.size // PIECE_BYTES))


class _Download:
    def __init__(
        self,
        store: Store,
        key_of: Callable[[str], str],
        folder: Path,
        files: Sequence[WeightsFile],
        on_bytes: OnBytes,
        stop: Stop,
    ) -> None:
        self._store, self._key_of, self._on_bytes, self._stop = store, key_of, on_bytes, stop
        self._pieces = self._all_pieces(folder, files)
        self._done, self._total = 0, sum(file.size for file in files)
        self._lock = threading.Lock()
        self._failed = False

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="weights") as pool:
            workers = [pool.submit(self._work) for _ in range(THREADS)]
        for worker in workers:
            worker.result()

    def _all_pieces(self, folder: Path, files: Sequence[WeightsFile]) -> Iterator[tuple[_Unfinished, int]]:
        """(file, start) of each piece; a file is made when its first piece is taken."""
        for file in files:
            unfinished = _Unfinished(file, folder / file.path)
            unfinished.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(unfinished.path, _CREATE, 0o600))
            for number in range(unfinished.pieces_left):
                yield unfinished, number * PIECE_BYTES

    def _work(self) -> None:
        try:
            while (piece := self._next()) is not None:
                self._fetch(*piece)
        except BaseException:
            self._failed = True
            raise

    def _next(self) -> tuple[_Unfinished, int] | None:
        with self._lock:
            return None if self._failed else next(self._pieces, None)

    def _fetch(self, unfinished: _Unfinished, start: int) -> None:
        self._stop.check()
        length = min(PIECE_BYTES, unfinished.file.size - start)
        if length:
            self._write(unfinished, start, length)
        with self._lock:
            self._done += length
            self._on_bytes(self._done, self._total)
            unfinished.pieces_left -= 1
            whole = not unfinished.pieces_left
        if whole:
            self._finish(unfinished)

    def _write(self, unfinished: _Unfinished, start: int, length: int) -> None:
        key = self._key_of(unfinished.file.path)
        data = memoryview(self._store.get_range(key, start, length))
        if len(data) != length:
            raise Corrupt(f"{self._store.describe()}: {key}: got {len(data)} bytes from {start}, expected {length}")
        fd = os.open(unfinished.path, _WRITE)
        try:
            while data:
                done = os.pwrite(fd, data, start)
                data, start = data[done:], start + done
        finally:
            os.close(fd)

    def _finish(self, unfinished: _Unfinished) -> None:
        """Compare its hash, then put it on disk: later only its size is looked at."""
        file, path = unfinished.file, unfinished.path
        found = file_digest(path)
        if found != file.blake3:
            path.unlink()
            raise Corrupt(
                f"{self._store.describe()}: {self._key_of(file.path)} has the BLAKE3 {found}, expected {file.blake3}: "
                "publish the weights again, under another prefix",
                key=self._key_of(file.path),
            )
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
