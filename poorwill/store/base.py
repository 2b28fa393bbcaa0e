"""What an object store promises.

Every implementation passes tests/conformance/store_suite.py. Keys are relative to the store's prefix,
never start with '/', and have no '.' or '..' component. All calls are thread-safe and have a timeout.

Errors, the same for all: NotFound (no such object), StoreRefused (credentials, permission, bucket; the
message names endpoint and bucket), StoreUnavailable (transient). No message holds a secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

SMALL_OBJECT_BYTES_MAX = 16 << 20
CONTENT_TYPE_DEFAULT = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store lists it. `modified_s` is POSIX time by the store's own clock.

    What `head` alone tells, where the store does: the storage class; the archive in which the object lies, from which
    it is read only once a copy has been brought back, and whether one has; that it will be deleted, by which rule and
    when, in words. All empty in a directory.
    """

    key: str
    size: int
    modified_s: float
    storage_class: str = ""
    archive: str = ""
    brought_back: bool = False
    deletion: str = ""


@dataclass(frozen=True, slots=True)
class LifecycleRule:
    """A rule by which a store itself deletes objects, or moves them to an archive. prefix: of the keys it is for."""

    name: str
    prefix: str
    deletes: bool
    archive: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to read one object, or to write one piece of one upload: exactly one of `url`, a secret until it
    expires, and `path`, of a store in a directory."""

    url: str | None = None
    path: str | None = None

    def __repr__(self) -> str:
        return f"Grant(path={self.path!r})" if self.url is None else "Grant(url=***)"


@dataclass(frozen=True, slots=True)
class Piece:
    """One uploaded piece: its number, from 1, and the tag that the store gave it."""

    number: int
    tag: str
    size: int = 0


Check = Callable[[], None]
"""Raises, if something is not to be written."""
Pieces = list[Piece]  # inside a class with a method `list`, that word means the method


@runtime_checkable
class TellsRules(Protocol):
    """A store that may have such rules."""

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """Those in force for the store's objects. Empty if there are none, or these credentials may not see them."""


class Store(Protocol):
    """Objects under one prefix. Keys follow object_key.py; another key is a UsageError."""

    url: str  # as a user writes it: file:///path or s3://bucket/prefix; holds no secret
    piece_bytes_min: int  # of every piece but an upload's last
    pieces_max: int

    def describe(self) -> str:
        """For messages: the url and, for S3, the endpoint. No secret."""

    def put(self, key: str, data: bytes) -> None:
        """Write a small object. Atomic: a reader sees all of it or none. Durable when it returns."""

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        """Like put, but through an upload that `list_uploads` shows until the object appears, and that `abort_upload`
        ends: then nothing is written any more. `check` is called in between, and nothing is written if it raises.
        UploadLost (transient) if the upload was ended.

        So whoever first writes that it takes over, then ends all uploads of a key, has fenced off everybody whose
        `check` looks for that: what had not appeared by then never will.
        """

    def put_new(self, key: str, data: bytes, check: Check = ...) -> bool:
        """Like put_fenced, but False, and nothing is written, if the key exists and holds anything but `data`. Of
        several that do it at a time, one writes; it ends the uploads of the others, who look again."""

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        """Write an object of any size from a local file, in bounded memory.

        Atomic: a reader sees the old object or all of the new one, and a failure leaves the old one and no unfinished
        upload, if the store still answers. Durable when it returns. Idempotent. `content_type` (RFC 9110, 8.3) is
        served with a grant's url; a directory does not keep it.

        Corrupt if the store then holds another size. WorkspaceError if the file is missing, is not a regular file, or
        changes while it is read. UploadLost (transient) if the store forgot the unfinished upload.
        """

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        """A whole object. Corrupt if it is larger than `bytes_max`; so much memory is not allocated."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Corrupt if the object ends earlier."""

    def head(self, key: str) -> ObjectInfo:
        """Size and time of one object, and what else the store tells of it."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in the order of the keys' UTF-8 bytes, read page by page.
        Unfinished uploads are not listed; objects written or deleted meanwhile may be."""

    def delete(self, key: str) -> None:
        """Idempotent: deleting a missing object succeeds."""

    def create_upload(self, key: str) -> str:
        """Begin a multipart upload; the object appears only when it is completed."""

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        """Permission to write piece `number`, from 1: in S3 a presigned UploadPart; in a directory the path of the
        upload's temporary file, the same for every number, into which the holder writes each piece at its own
        offset."""

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        """Permission to read an object, by ranges; a missing one shows when the grant is used. In S3 for at most 7 days
        (604,800 s), UsageError for more; the path in a directory does not expire."""

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        """Make the object appear. Atomic, durable when it returns; `size` is the whole object's and is
        checked (Corrupt if the store holds another size). Repeating it after success succeeds.
        NotFound if there is neither such an upload nor such an object. `pieces` may have any order."""

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload and its pieces. Idempotent."""

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(key, upload_id) of every unfinished upload whose key starts with `prefix`, in any order; empty if an S3
        server has no such listing, or lost them in a restart."""

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        """The pieces of an unfinished upload, by number; empty in a directory, where they are bytes of a file, and if
        an S3 server has no such listing. NotFound if there is no such upload."""

    def close(self) -> None: ...
