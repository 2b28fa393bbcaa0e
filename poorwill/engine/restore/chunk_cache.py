"""Stored chunks in a directory of the machine, so that the next restore need not download them.

A chunk lies in `<directory>/<a>/<b>/<hash>`, where `hash` is the BLAKE3 of its stored bytes in hex and `a` and `b` its
first two digits. A file appears under its name by rename and is never written again, so machines that share the disk
can use one cache at the same time. What is read is hashed: a damaged file is a missing one. Chunks are not encrypted;
directories and files are made for their owner alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import blake3

from poorwill import defaults
from poorwill.errors import Refused, UsageError
from poorwill.positioned_io import READ_FLAGS, closing_fd, read_at, write_at
from poorwill.snapshot.order import RestoreOrder

log = logging.getLogger(__name__)
KEPT_SHARE = 0.9
"""How much of the bound is left when the least recently used are removed: not to do it again for the next chunk."""
RECOUNT_SHARE = 1 / 16
"""After adding as much of the bound, everything is counted again, for the sake of what other machines added."""
UNFINISHED_S_MAX = 3600.0
_UNFINISHED = "new-"
_DIGITS = frozenset("0123456789abcdef")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Kept(NamedTuple):
    used_s: float
    size: int
    path: str


def open_cache(order: RestoreOrder) -> ChunkCache | None:
    """A restore's cache, if it has one, made if need be. UsageError; Refused if it is not apart from the workspace."""
    if order.cache is None:
        return None
    if not os.path.isabs(order.cache) or "\0" in order.cache:
        raise UsageError(f"cache {order.cache!r}: not an absolute path")
    cache, root = os.path.realpath(order.cache), os.path.realpath(order.workspace)
    if os.path.commonpath([cache, root]) in (cache, root):
        raise Refused(
            f"cache {order.cache} and workspace {order.workspace}: one lies in the other, so the cache would become "
            "part of the next snapshot, or the workspace of the cache: nothing was restored; give another directory"
        )
    return ChunkCache(cache, order.cache_bytes_max)


class ChunkCache:
    """At most `bytes_max` bytes of stored chunks, the most recently used ones. Thread-safe.

    Nothing here raises: what cannot be read is fetched by whoever asked, and the first thing that cannot be written
    becomes `warning` and ends the adding. Several machines together may go beyond the bound, each by a sixteenth.
    """

    def __init__(
        self, directory: str, bytes_max: int = defaults.CACHE_BYTES_MAX, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory, self._bytes_max, self._clock = directory, bytes_max, clock
        self.warning = ""
        self._lock = threading.Lock()
        self._total = self._uncounted = 0
        self._counted = False
        self._try(lambda: _make_directory(directory))

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            with self._lock:
                if not self.warning:
                    self.warning = f"cache {self.directory}: {error.strerror}: nothing more is added to it"
                    log.warning("%s", self.warning)

    def _path(self, digest: bytes) -> str:
        name = digest.hex()
        return os.path.join(self.directory, name[0], name[1], name)

    def read(self, digest: bytes, into: memoryview) -> bool:
        """Fill `into` with the chunk of this hash and size; False if it is not here whole. Marks it as used."""
        path = self._path(digest)
        try:
            with closing_fd(os.open(path, READ_FLAGS)) as fd:
                whole = os.fstat(fd).st_size == len(into) == read_at(fd, 0, into)
                if whole and blake3.blake3(into).digest() == digest:
                    with suppress(OSError):  # a disk that is only read
                        os.utime(fd)
                    return True
        except OSError:
            return False
        log.info("cache %s: %s is damaged and removed", self.directory, digest.hex())
        with suppress(OSError):
            os.unlink(path)
        return False

    def add(self, digest: bytes, data: memoryview) -> None:
        """Keep a chunk, whose hash was compared by the caller. Atomic; what is there already is left alone."""
        if self.warning or len(data) > self._bytes_max * KEPT_SHARE:
            return
        self._try(lambda: self._add(self._path(digest), data))

    def _add(self, path: str, data: memoryview) -> None:
        if os.path.lexists(path):
            return
        with self._lock:
            self._make_room(len(data))
        folder = os.path.dirname(path)
        for made in (os.path.dirname(folder), folder):
            with suppress(FileExistsError):
                os.mkdir(made, 0o700)
        unfinished = os.path.join(folder, _UNFINISHED + secrets.token_hex(8))
        with closing_fd(os.open(unfinished, _WRITE, 0o600)) as fd:
            try:
                write_at(fd, 0, data)
                os.rename(unfinished, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(unfinished)
                raise

    def _make_room(self, size: int) -> None:
        if not self._counted or self._uncounted + size > self._bytes_max * RECOUNT_SHARE:
            self._total, self._uncounted, self._counted = sum(kept.size for kept in self._all()), 0, True
        if self._total + size > self._bytes_max:
            self._remove_oldest(int(self._bytes_max * KEPT_SHARE) - size)
        self._total += size
        self._uncounted += size

    def _remove_oldest(self, bytes_left_max: int) -> None:
        kept = sorted(self._all())
        self._total = sum(one.size for one in kept)
        for one in kept:
            if self._total <= bytes_left_max:
                break
            with suppress(FileNotFoundError):  # another machine makes room too
                os.unlink(one.path)
            self._total -= one.size

    def _all(self) -> Iterator[_Kept]:
        """Every file of ours; those that a killed restore left unfinished are removed."""
        for folder in (folder for above in _folders(self.directory) for folder in _folders(above)):
            with os.scandir(folder) as found:
                entries = list(found)
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                    if entry.name.startswith(_UNFINISHED) and info.st_mtime < self._clock() - UNFINISHED_S_MAX:
                        os.unlink(entry.path)
                    else:
                        yield _Kept(info.st_mtime, info.st_size, entry.path)
                except FileNotFoundError:
                    continue


def _folders(above: str) -> list[str]:
    with os.scandir(above) as found:
        return [entry.path for entry in found if entry.name in _DIGITS and entry.is_dir(follow_symlinks=False)]


def _make_directory(path: str) -> None:
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        _make_directory(above)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
