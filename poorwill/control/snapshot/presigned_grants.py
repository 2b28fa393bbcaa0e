"""Answers to what an engine asks: leave to read or write one object at a time, shortly before it is used."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Set
from typing import Any

from poorwill.engine.protocol.asking import Question
from poorwill.engine.protocol.questions import Pieces, PieceUrls, Read, Upload, UploadGrant
from poorwill.errors import Refused, UsageError
from poorwill.remote.base import Host
from poorwill.snapshot import keys
from poorwill.store.base import Grant, Store

EXPIRES_S = 1800
PIECE_BYTES = 8 << 20
ASKED_CHARS_MAX = 200


def check_reachable(store: Store, host: Host) -> None:
    """UsageError for a store in a directory of this computer and an engine on another one."""
    if store.url.startswith("file:") and not host.here:
        raise UsageError(
            f"{host.describe()} cannot reach {store.url}, a directory of this computer: use an S3 store for machines "
            "behind SSH"
        )


class ReadGrants:
    """Leave to read the objects named in `allowed`, and no others."""

    def __init__(self, store: Store, allowed: Set[str]) -> None:
        self._store = store
        self.allowed = allowed

    def answer(self, question: Question[Any]) -> Grant:
        if not isinstance(question, Read) or question.key not in self.allowed:
            raise Refused(f"the engine asked for {str(question)[:ASKED_CHARS_MAX]}, which is not part of its work")
        return self._store.grant_read(question.key, expires_s=EXPIRES_S)


class PartGrants:
    """Leave to write the parts of one pending snapshot. Thread-safe.

    A part that is begun again gets a new upload; the one before is dropped.
    """

    def __init__(self, store: Store, machine: str, snapshot_id: str) -> None:
        self._store = store
        self._machine, self._snapshot_id = machine, snapshot_id
        self._uploads: dict[int, str] = {}
        self._piece_bytes: dict[int, int] = {}
        self._lock = threading.Lock()

    def expect(self, parts: Mapping[int, int]) -> None:
        """Choose the size of each part's pieces from the most it can have: 8 MiB, more for parts above 72 GB.

        parts: raw bytes by part number.
        """
        for number, raw_bytes in parts.items():
            least = -(-raw_bytes // (self._store.pieces_max * 9 // 10))
            self._piece_bytes[number] = max(PIECE_BYTES, self._store.piece_bytes_min, -(-least // (1 << 20)) << 20)

    def key(self, number: int) -> str:
        return keys.part(self._machine, self._snapshot_id, number)

    def answer(self, question: Question[Any]) -> UploadGrant | PieceUrls:
        if isinstance(question, Upload) and question.part in self._piece_bytes:
            return self._begin(question.part)
        if isinstance(question, Pieces) and question.part in self._uploads:
            key, upload = self.key(question.part), self._uploads[question.part]
            grants = {n: self._store.grant_piece(key, upload, n, expires_s=EXPIRES_S) for n in question.numbers}
            return PieceUrls({n: grant.url or "" for n, grant in grants.items()})
        raise Refused(f"the engine asked for {str(question)[:ASKED_CHARS_MAX]}, which is not part of its work")

    def _begin(self, number: int) -> UploadGrant:
        self.drop(number)
        upload = self._store.create_upload(self.key(number))
        with self._lock:
            self._uploads[number] = upload
        grant = self._store.grant_piece(self.key(number), upload, 1, expires_s=EXPIRES_S)
        return UploadGrant(self._piece_bytes[number] if grant.path is None else None, grant.path)

    def upload_of(self, number: int) -> str:
        return self._uploads[number]

    def done(self, number: int) -> None:
        with self._lock:
            self._uploads.pop(number, None)

    def drop(self, number: int) -> None:
        """Abort a part's unfinished upload, if it has one."""
        with self._lock:
            upload = self._uploads.pop(number, None)
        if upload is not None:
            self._store.abort_upload(self.key(number), upload)
