"""Files of weights on their way from a store into a folder: in pieces, several at once, each file hashed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import blake3

from poorwill.errors import Corrupt
from poorwill.media.stop import Stop
from poorwill.media.weights_manifest import WeightsFile
from poorwill.store.base import Store
from poorwill.store.directory_tree import sync_file, sync_folder

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
    total = sum(file.size for file in files)
    work = _Download(store, key_of, _pieces(folder, files), lambda done: on_bytes(done, total), stop)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="weights") as pool:
        workers = [pool.submit(work.run) for _ in range(THREADS)]
    for worker in workers:
        worker.result()
    for above, _, _ in os.walk(folder):
        sync_folder(above)


class _Unfinished:
    """A file of which pieces are missing."""

    def __init__(self, file: WeightsFile, path: Path) -> None:
        self.file, self.path = file, path
        self.pieces_left = max(1, -(-file.size // PIECE_BYTES))


def _pieces(folder: Path, files: Sequence[WeightsFile]) -> Iterator[tuple[_Unfinished, int]]:
    """(file, start) of each piece; a file is made when its first piece is taken."""
    for file in files:
        unfinished = _Unfinished(file, folder / file.path)
        unfinished.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(unfinished.path, _CREATE, 0o600))
        for number in range(unfinished.pieces_left):
            yield unfinished, number * PIECE_BYTES


@dataclass(slots=True)
class _Download:
    """What the threads share. `run` is called by each."""

    store: Store
    key_of: Callable[[str], str]
    pieces: Iterator[tuple[_Unfinished, int]]
    on_done: Callable[[int], None]
    stop: Stop
    done_bytes: int = 0
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        try:
            while (piece := self._next()) is not None:
                self._fetch(*piece)
        except BaseException:
            self.failed = True
            raise

    def _next(self) -> tuple[_Unfinished, int] | None:
        with self.lock:
            return None if self.failed else next(self.pieces, None)

    def _fetch(self, unfinished: _Unfinished, start: int) -> None:
        self.stop.check()
        length = min(PIECE_BYTES, unfinished.file.size - start)
        if length:
            self._write(unfinished, start, length)
        with self.lock:
            self.done_bytes += length
            self.on_done(self.done_bytes)
            unfinished.pieces_left -= 1
            whole = not unfinished.pieces_left
        if whole:
            self._finish(unfinished)

    def _write(self, unfinished: _Unfinished, start: int, length: int) -> None:
        key = self.key_of(unfinished.file.path)
        data = memoryview(self.store.get_range(key, start, length))
        if len(data) != length:
            raise Corrupt(f"{self.store.describe()}: {key}: got {len(data)} bytes from {start}, expected {length}")
        fd = os.open(unfinished.path, _WRITE)
        try:
            while data:
                done = os.pwrite(fd, data, start)
                data, start = data[done:], start + done
        finally:
            os.close(fd)

    def _finish(self, unfinished: _Unfinished) -> None:
        """Compare the file's hash, then put it on disk: later only its size is looked at."""
        file, path, key = unfinished.file, unfinished.path, self.key_of(unfinished.file.path)
        found = file_digest(path)
        if found != file.blake3:
            path.unlink()
            raise Corrupt(
                f"{self.store.describe()}: {key} has the BLAKE3 {found}, expected {file.blake3}: publish the weights "
                "again, under another prefix",
                key=key,
            )
        sync_file(path)
