"""A store in memory, with a clock that a test sets, and processes that use it and die: for thousands of runs a test.

It gives a path as grant, as a local store does: `write_piece` and `get` take it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from poorwill.errors import Corrupt, NotFound, UploadLost
from poorwill.store.base import CONTENT_TYPE_DEFAULT, SMALL_OBJECT_BYTES_MAX, Check, Grant, ObjectInfo, Pieces

WRITES = frozenset(("put", "delete", "create_upload", "complete_upload", "abort_upload"))


class Died(BaseException):
    """The process that used the store is no more: nothing of it may run on."""


class MemoryStore:
    """Objects and unfinished uploads in dictionaries. Listings are lazy: what changes meanwhile may show, as in S3."""

    url = "memory:"
    piece_bytes_min = 1
    pieces_max = 1000

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[tuple[str, str], bytes] = {}
        self.now_s = 1_700_000_000.0
        self._numbers = 0

    def describe(self) -> str:
        return self.url

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data, self.now_s

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        """By the calls of which it consists, as an S3 store does it."""
        upload_id = self._upload(key, data)
        try:
            check()
            self._complete(key, upload_id, data)
        finally:
            self.abort_upload(key, upload_id)

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        upload_id = self._upload(key, data)
        try:
            for other, others_id in self.list_uploads(key):
                if other == key and others_id != upload_id:
                    self.abort_upload(key, others_id)
            with suppress(NotFound):
                self.head(key)
                return self.get(key) == data
            check()
            self._complete(key, upload_id, data)
            return True
        finally:
            self.abort_upload(key, upload_id)

    def _upload(self, key: str, data: bytes) -> str:
        upload_id = self.create_upload(key)
        self.uploads[key, upload_id] = data
        return upload_id

    def _complete(self, key: str, upload_id: str, data: bytes) -> None:
        try:
            self.complete_upload(key, upload_id, [], len(data))
        except NotFound:
            raise UploadLost(f"the upload of {key} was ended") from None

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        with open(path, "rb") as file:
            self.put(key, file.read())

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        return self._found(key)[0]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = self._found(key)[0][start : start + length]
        if len(data) < length:
            raise Corrupt(f"{key} ends early")
        return data

    def head(self, key: str) -> ObjectInfo:
        data, modified_s = self._found(key)
        return ObjectInfo(key, len(data), modified_s)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        last = ""
        while following := min((k for k in self.objects if k > last and k.startswith(prefix)), default=""):
            yield self.head(following)
            last = following

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def create_upload(self, key: str) -> str:
        self._numbers += 1
        self.uploads[key, str(self._numbers)] = b""
        return str(self._numbers)

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        return Grant(path=f"{key}#{upload_id}")

    def write_piece(self, path: str, data: bytes) -> None:
        key, _, upload_id = path.partition("#")
        self.uploads[key, upload_id] = data

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        return Grant(path=key)

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        data = self.uploads.pop((key, upload_id), None)
        if data is None:
            raise NotFound(f"no upload {upload_id} of {key}")
        self.put(key, data)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self.uploads.pop((key, upload_id), None)

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        yield from [upload for upload in self.uploads if upload[0].startswith(prefix)]

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        return []

    def close(self) -> None:
        return None

    def _found(self, key: str) -> tuple[bytes, float]:
        if key not in self.objects:
            raise NotFound(f"no object {key}", key=key)
        return self.objects[key]


class Process(MemoryStore):
    """The same store for one process, which may die at a write, and beside which another may work at any call."""

    def __init__(self, shared: MemoryStore) -> None:
        super().__init__()
        self._shared = shared
        self.objects, self.uploads = shared.objects, shared.uploads
        self.dies_at: int | None = None
        self.meanwhile: tuple[int, Callable[[], None]] | None = None
        self.dead = False
        self._calls = self._writes = 0

    def begin(self, dies_at: int | None, meanwhile: tuple[int, Callable[[], None]] | None) -> None:
        """From here on: the write at which it dies, without an effect; the call before which something happens."""
        self._calls = self._writes = 0
        self.dies_at, self.meanwhile = dies_at, meanwhile

    def put(self, key: str, data: bytes) -> None:
        self._called("put")
        self._shared.put(key, data)

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        self._called("get")
        return super().get(key)

    def head(self, key: str) -> ObjectInfo:
        self._called("head")
        return super().head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._called("list")
        for info in self._shared.list(prefix):
            yield info
            self._called("list")

    def delete(self, key: str) -> None:
        self._called("delete")
        super().delete(key)

    def create_upload(self, key: str) -> str:
        self._called("create_upload")
        return self._shared.create_upload(key)

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        self._called("complete_upload")
        self._shared.complete_upload(key, upload_id, pieces, size)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._called("abort_upload")
        super().abort_upload(key, upload_id)

    def _called(self, operation: str) -> None:
        self._calls += 1
        self._writes += operation in WRITES
        if self.meanwhile is not None and self._calls == self.meanwhile[0]:
            self.meanwhile[1]()
        if self.dead or (operation in WRITES and self._writes == self.dies_at):
            self.dead = True
            raise Died
