"""A store that fails when it is told to, for tests of whatever uses a store."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from poorwill.store.base import CONTENT_TYPE_DEFAULT, SMALL_OBJECT_BYTES_MAX, Check, Grant, ObjectInfo, Pieces, Store

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the `call`-th call (from 1; 0 means every one) of the Store method `operation`.

    `error` is raised instead of the call, or, with `after`, when the call has already taken effect (for
    listings: after the first item). `flip_bit` (counted from the first byte's lowest bit) and
    `truncate_to` (bytes) change what `get` and `get_range` return and what `put` and `put_new` write.
    Only calls whose key or prefix contains `key_part` are counted for this fault.
    """

    operation: str
    call: int = 1
    error: Exception | None = None
    after: bool = False
    flip_bit: int | None = None
    truncate_to: int | None = None
    key_part: str = ""

    def changed(self, data: bytes) -> bytes:
        """The bytes with the bit flipped and the end cut off; a bit beyond the end wraps around."""
        if self.truncate_to is not None:
            data = data[: self.truncate_to]
        if self.flip_bit is not None and data:
            bit = self.flip_bit % (8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << (bit % 8)
            data = bytes(flipped)
        return data


class FaultyStore:
    """Another store behind a script of faults. `calls` counts the calls of every method by its name."""

    def __init__(self, inner: Store, faults: Iterable[Fault] = ()) -> None:
        self._inner = inner
        self._faults = list(faults)
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.url = inner.url
        self.piece_bytes_min = inner.piece_bytes_min
        self.pieces_max = inner.pieces_max

    def describe(self) -> str:
        return self._inner.describe()

    def put(self, key: str, data: bytes) -> None:
        self._called("put", key, lambda fault: self._inner.put(key, fault.changed(data)))

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        self._called("put_fenced", key, lambda fault: self._inner.put_fenced(key, fault.changed(data), check))

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        return self._called("put_new", key, lambda fault: self._inner.put_new(key, fault.changed(data), check))

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        put_file = self._inner.put_file
        self._called("put_file", key, lambda _: put_file(key, path, content_type=content_type))

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        return self._called("get", key, lambda fault: fault.changed(self._inner.get(key, bytes_max=bytes_max)))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._called("get_range", key, lambda fault: fault.changed(self._inner.get_range(key, start, length)))

    def head(self, key: str) -> ObjectInfo:
        return self._called("head", key, lambda _: self._inner.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._listed("list", prefix, self._inner.list)

    def delete(self, key: str) -> None:
        self._called("delete", key, lambda _: self._inner.delete(key))

    def create_upload(self, key: str) -> str:
        return self._called("create_upload", key, lambda _: self._inner.create_upload(key))

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        grant = self._inner.grant_piece
        return self._called("grant_piece", key, lambda _: grant(key, upload_id, number, expires_s=expires_s))

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        return self._called("grant_read", key, lambda _: self._inner.grant_read(key, expires_s=expires_s))

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        complete = self._inner.complete_upload
        self._called("complete_upload", key, lambda _: complete(key, upload_id, pieces, size))

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._called("abort_upload", key, lambda _: self._inner.abort_upload(key, upload_id))

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        return self._listed("list_uploads", prefix, self._inner.list_uploads)

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        return self._called("list_pieces", key, lambda _: self._inner.list_pieces(key, upload_id))

    def close(self) -> None:
        self._inner.close()

    def _due(self, operation: str, key: str) -> Fault:
        """The first fault whose turn it is; one that does nothing if there is none."""
        due = Fault(operation)
        with self._lock:
            self.calls[operation] += 1
            for index, fault in enumerate(self._faults):
                if fault.operation != operation or fault.key_part not in key:
                    continue
                self._counts[index] += 1
                if fault.call in (0, self._counts[index]) and due == Fault(operation):
                    due = fault
        return due

    def _called(self, operation: str, key: str, call: Callable[[Fault], _T]) -> _T:
        fault = self._due(operation, key)
        if fault.error is not None and not fault.after:
            raise fault.error
        answer = call(fault)
        if fault.error is not None:
            raise fault.error
        return answer

    def _listed(self, operation: str, prefix: str, call: Callable[[str], Iterator[_T]]) -> Iterator[_T]:
        fault = self._due(operation, prefix)
        if fault.error is not None and not fault.after:
            raise fault.error
        for item in call(prefix):
            yield item
            if fault.error is not None:
                raise fault.error
