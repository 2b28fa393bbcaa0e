"""A store that tries again after transient errors."""

from __future__ import annotations

import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from poorwill.errors import TransientError
from poorwill.retry import Backoff, retry
from poorwill.store.base import (
    CONTENT_TYPE_DEFAULT,
    SMALL_OBJECT_BYTES_MAX,
    Check,
    LifecycleRule,
    ObjectInfo,
    Pieces,
    Store,
    TellsRules,
)

BACKOFF = Backoff(first_s=0.25, max_s=10.0, attempts_max=5)
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class RetryingStore:
    """Another store whose calls are repeated after a TransientError; see poorwill/retry.py. A call fails with the last
    error after the backoff's attempts, or when the next pause would end later than `total_s` after it began."""

    def __init__(
        self,
        inner: Store,
        backoff: Backoff = BACKOFF,
        *,
        total_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._inner, self._backoff = inner, backoff
        self._total_s, self._sleep, self._clock, self._uniform = total_s, sleep, clock, uniform
        self.url = inner.url
        self.piece_bytes_min = inner.piece_bytes_min
        self.pieces_max = inner.pieces_max
        # What sends no request is not tried again.
        self.describe, self.close = inner.describe, inner.close
        self.grant_piece, self.grant_read = inner.grant_piece, inner.grant_read

    def put(self, key: str, data: bytes) -> None:
        self._retried("put", key, lambda: self._inner.put(key, data))

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        self._retried("put_fenced", key, lambda: self._inner.put_fenced(key, data, check))

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        return self._retried("put_new", key, lambda: self._inner.put_new(key, data, check))

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        """See Store. Each attempt sends the whole file, which may take longer than `total_s`: only the
        attempts bound it."""

        put_file = self._inner.put_file
        self._retried("put_file", key, lambda: put_file(key, path, content_type=content_type), math.inf)

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        return self._retried("get", key, lambda: self._inner.get(key, bytes_max=bytes_max))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._retried("get_range", key, lambda: self._inner.get_range(key, start, length))

    def head(self, key: str) -> ObjectInfo:
        return self._retried("head", key, lambda: self._inner.head(key))

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """See TellsRules. Not tried again: no answer is one, too."""
        return self._inner.lifecycle() if isinstance(self._inner, TellsRules) else ()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store. After an error the listing begins again and goes on behind the last key it gave."""
        last = ""
        found: Iterator[ObjectInfo] | None = None

        def following() -> ObjectInfo | None:
            nonlocal found
            try:
                found = found or self._inner.list(prefix)
                return next((info for info in found if info.key > last), None)
            except TransientError:
                found = None
                raise

        while True:
            info = self._retried("list", prefix, following)
            if info is None:
                return
            last = info.key
            yield info

    def delete(self, key: str) -> None:
        self._retried("delete", key, lambda: self._inner.delete(key))

    def create_upload(self, key: str) -> str:
        """See Store. An attempt whose answer was lost leaves an empty upload that `list_uploads` shows."""
        return self._retried("create_upload", key, lambda: self._inner.create_upload(key))

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        complete = self._inner.complete_upload
        self._retried("complete_upload", key, lambda: complete(key, upload_id, pieces, size))

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._retried("abort_upload", key, lambda: self._inner.abort_upload(key, upload_id))

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """See Store. All are read before the first is given: uploads have no order by which to go on."""
        yield from self._retried("list_uploads", prefix, lambda: tuple(self._inner.list_uploads(prefix)))

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        return self._retried("list_pieces", key, lambda: self._inner.list_pieces(key, upload_id))

    def _retried(self, operation: str, key: str, attempt: Callable[[], _T], total_s: float | None = None) -> _T:
        pauses = self._backoff.pauses(total_s or self._total_s, clock=self._clock, uniform=self._uniform)

        def on_pause(error: TransientError, pause_s: float) -> None:
            _log.info("%s %s: try %d failed, next in %.1f s: %s", operation, key, pauses.attempts - 1, pause_s, error)

        return retry(attempt, pauses, on_pause=on_pause, sleep=self._sleep)
