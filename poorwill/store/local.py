"""A store in a directory: `<root>/<key>` is the object.

    <root>/.uploads/puts/<random>              an object on its way to its name; swept once its writer is gone
    <root>/.uploads/multipart/<key>/<id>       an unfinished upload: one file, pieces at their offsets

Everything else under the root is objects. An object appears when a file that is already on disk is renamed or linked,
so a reader sees all of it or nothing, also after a loss of power.

A missing root reads as an empty store. The first write makes it, but only if its parent exists: a mistyped path, or a
disk that is not mounted, is an error and not a new store. Unlike in S3, one object's key cannot be another's folder:
`a` excludes `a/b`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from poorwill.errors import Corrupt, NotFound, StoreRefused, StoreUnavailable, UploadLost, UsageError
from poorwill.positioned_io import READ_FLAGS, closing_fd, read_at
from poorwill.store.base import CONTENT_TYPE_DEFAULT, SMALL_OBJECT_BYTES_MAX, Check, Grant, ObjectInfo, Pieces
from poorwill.store.directory_tree import DirectoryTree, sync_folder
from poorwill.store.object_key import RESERVED_COMPONENT, checked_key, checked_prefix, key_fault
from poorwill.store.source_file import SourceFile

_PASSING = (errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.ENFILE, errno.EMFILE)
_BLOCK_BYTES = 1 << 20
_MISSING = (FileNotFoundError, NotADirectoryError)


class LocalStore:
    """Store over a local directory. Thread-safe, and safe among processes that share the directory."""

    piece_bytes_min = 1
    pieces_max = 1_000_000

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """StoreRefused if `root` is not a directory and could not become one."""
        self._tree = DirectoryTree(root)
        self._uploads = os.path.join(self._tree.root, RESERVED_COMPONENT, "multipart")
        self._puts = os.path.join(self._tree.root, RESERVED_COMPONENT, "puts")
        self._swept = False
        self.url = Path(self._tree.root).as_uri()

    def describe(self) -> str:
        return self.url

    def put(self, key: str, data: bytes) -> None:
        self._put(key, [data])

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        self._put_fenced(key, data, check, replace=True)

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        return self._put_fenced(key, data, check, replace=False) or self._holds(key, data)

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        """See Store. The content type is not kept."""
        with SourceFile(path) as source:
            self._put(key, source.blocks(_BLOCK_BYTES))

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        with self._opened(key) as (fd, found):
            if found.st_size > bytes_max:
                raise Corrupt(f"{self.url}: {key} has {found.st_size} bytes, expected at most {bytes_max}", key=key)
            return self._read(fd, key, 0, found.st_size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise UsageError(f"a range cannot have {length} bytes from {start}")
        with self._opened(key) as (fd, found):
            if start + length > found.st_size:
                raise Corrupt(
                    f"{self.url}: {key} ends at byte {found.st_size}, expected {length} bytes from {start}", key=key
                )
            return self._read(fd, key, start, length)

    def head(self, key: str) -> ObjectInfo:
        with self._opened(key) as (_, found):
            return ObjectInfo(key, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        for key, path in self._walk(self._tree.root, prefix):
            if key_fault(key) is not None:
                continue  # not an object's name: the file is not ours
            with contextlib.suppress(*_MISSING):
                found = os.lstat(path)
                yield ObjectInfo(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(*_MISSING, IsADirectoryError):
            with self._refusals("delete", key):
                os.unlink(path)
                sync_folder(os.path.dirname(path))
            self._tree.prune(os.path.dirname(path), self._tree.root)

    def create_upload(self, key: str) -> str:
        upload_id = secrets.token_hex(16)
        path = self._upload_path(key, upload_id)
        with self._refusals("begin an upload of", key, names=True):
            os.close(self._tree.create(path))
            sync_folder(os.path.dirname(path))
        return upload_id

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        if not 1 <= number <= self.pieces_max:
            raise UsageError(f"piece number {number}: expected 1 to {self.pieces_max}")
        return Grant(path=self._upload_path(key, upload_id))

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        return Grant(path=self._path(key))

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        """See Store. `pieces` is not used: the bytes are already at their offsets."""
        path, temporary = self._path(key), self._upload_path(key, upload_id)
        try:
            with self._refusals("complete", key):
                fd = os.open(temporary, READ_FLAGS)
            with closing_fd(fd):
                self._check_size(key, os.fstat(fd).st_size, size)
                with self._refusals("complete", key, names=True):
                    # This also covers what the writers of pieces wrote through their own descriptors.
                    os.fsync(fd)
                    self._tree.place(temporary, path, replace=True)
        except _MISSING:
            self._check_completed(key, upload_id, size)
            return
        self._tree.prune(os.path.dirname(temporary), self._uploads)

    def abort_upload(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(*_MISSING, NotFound):
            temporary = self._upload_path(key, upload_id)
            with self._refusals("abort an upload of", key):
                os.unlink(temporary)
            self._tree.prune(os.path.dirname(temporary), self._uploads)

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        for name, _ in self._walk(self._uploads, prefix):
            key, _, upload_id = name.rpartition("/")
            # The walk does not know ids: the prefix may have matched the beginning of one.
            if key and key.startswith(prefix):
                yield key, upload_id

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        if not os.path.isfile(self._upload_path(key, upload_id)):
            raise NotFound(f"{self.url}: {key} has no unfinished upload {upload_id}", key=key)
        return []

    def close(self) -> None:
        return None

    def _path(self, key: str) -> str:
        return self._tree.path(*checked_key(key).split("/"))

    def _upload_path(self, key: str, upload_id: str) -> str:
        if len(upload_id) != 32 or not set(upload_id) <= set("0123456789abcdef"):
            raise NotFound(f"{self.url}: {key} has no unfinished upload {upload_id[:40]!a}", key=key)
        return self._tree.path(self._uploads, *checked_key(key).split("/"), upload_id)

    def _put(self, key: str, blocks: Iterable[bytes]) -> None:
        path = self._path(key)
        if not self._swept:
            self._swept = True
            with self._refusals("write", key):
                self._tree.sweep(self._puts)
        with self._written(key, os.path.join(self._puts, secrets.token_hex(16)), blocks) as temporary:
            try:
                self._tree.place(temporary, path, replace=True)
            except FileNotFoundError:
                raise StoreUnavailable(f"{self.url}: {key} was removed while it was written", key=key) from None

    def _put_fenced(self, key: str, data: bytes, check: Check, *, replace: bool) -> bool:
        path, upload_id = self._path(key), secrets.token_hex(16)
        with self._written(key, self._upload_path(key, upload_id), [data]) as temporary:
            check()
            try:
                return self._tree.place(temporary, path, replace=replace)
            except FileNotFoundError:
                raise UploadLost(f"{self.url}: the unfinished upload of {key} was ended", key=key) from None

    @contextlib.contextmanager
    def _written(self, key: str, temporary: str, blocks: Iterable[bytes]) -> Iterator[str]:
        """A file that is on disk, to be given its name, and locked; it is gone afterwards, if it did not get one."""
        with self._refusals("write", key, names=True):
            fd = self._tree.create(temporary)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.writelines(blocks)
                    file.flush()
                    os.fsync(file.fileno())
                    yield temporary
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                folder = os.path.dirname(temporary)
                if folder != self._puts:
                    self._tree.prune(folder, self._uploads)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, bytes_max=len(data)) == data
        except (NotFound, Corrupt):
            return False

    def _walk(self, base: str, prefix: str) -> Iterator[tuple[str, str]]:
        found = self._tree.walk(base, checked_prefix(prefix), without=RESERVED_COMPONENT)
        while True:
            with self._refusals("list", prefix):
                step = next(found, None)
            if step is None:
                return
            yield step

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        missing = NotFound(f"{self.url} has no object {key}", key=key)
        path = self._path(key)
        try:
            with self._refusals("read", key):
                fd = os.open(path, READ_FLAGS)
        except _MISSING:
            raise missing from None
        with closing_fd(fd):
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise missing
            yield fd, found

    def _read(self, fd: int, key: str, start: int, length: int) -> bytes:
        data = bytearray(length)
        with self._refusals("read", key):
            if read_at(fd, start, memoryview(data)) < length:
                raise Corrupt(f"{self.url}: {key} became shorter while it was read", key=key)
        return bytes(data)

    def _check_size(self, key: str, found: int, expected: int) -> None:
        if found != expected:
            raise Corrupt(f"{self.url}: {key} holds {found} bytes, expected {expected}", key=key)

    def _check_completed(self, key: str, upload_id: str, size: int) -> None:
        """The upload is gone: success if it was completed before, and its object has that size."""
        try:
            info = self.head(key)
        except NotFound:
            raise NotFound(f"{self.url}: {key} has no unfinished upload {upload_id}", key=key) from None
        self._check_size(key, info.size, size)

    @contextlib.contextmanager
    def _refusals(self, verb: str, key: str, *, names: bool = False) -> Iterator[None]:
        """Raise a store's error in place of an OSError, other than for a missing file.

        names: also for a name that a folder or a file has already.
        """
        try:
            yield
        except (*_MISSING, IsADirectoryError) as error:
            if not names or isinstance(error, FileNotFoundError):
                raise
            why = "its key is a folder of another object's key, or the other way round"
            raise StoreRefused(f"{self.url}: cannot write {key}: {why}", key=key) from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            if error.errno in _PASSING:
                raise StoreUnavailable(f"{self.url}: cannot {verb} {key}: {reason}", key=key) from error
            raise StoreRefused(
                f"{self.url}: cannot {verb} {key}: {reason}; check the disk and its permissions", key=key
            ) from error
