"""A store in a bucket of Amazon S3, or of any server that speaks its protocol.

It needs what all of them have: signature version 4, multipart uploads, ranged reads, listings in key order; but neither
conditional writes, nor MD5 as ETag, nor status 206 for a range.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from poorwill.aws import FAULTS
from poorwill.errors import Corrupt, NotFound, StoreRefused, StoreUnavailable, UsageError
from poorwill.store.base import CONTENT_TYPE_DEFAULT, SMALL_OBJECT_BYTES_MAX, Check, Grant, LifecycleRule, ObjectInfo
from poorwill.store.object_key import checked_prefix
from poorwill.store.s3.bucket import S3Bucket
from poorwill.store.s3.client import s3_client
from poorwill.store.s3.errors import s3_error
from poorwill.store.s3.uploads import PIECE_BYTES, S3Uploads
from poorwill.store.source_file import SourceFile


class S3Store(S3Uploads):
    """Store over a bucket and a prefix in it.

    `list_uploads` and `list_pieces` give what the server lists. One that keeps uploads in memory (`rclone serve s3`)
    forgets them when it restarts; one without such listings (it answers 405 or 501) lists none.
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        """`client` is a boto3 S3 client, which is closed with the store; `connect` makes one."""
        super().__init__(S3Bucket(client, bucket, prefix))
        self.url = self._bucket.url

    @classmethod
    def connect(cls, bucket: str, prefix: str = "", **connection: Any) -> S3Store:
        """A store with its own client; `connection` are arguments of `s3_client`."""
        return cls(s3_client(bucket, **connection), bucket, prefix)

    def describe(self) -> str:
        return self._place

    def put(self, key: str, data: bytes) -> None:
        self._bucket.ask("write", key, "put_object", Body=data)

    def put_fenced(self, key: str, data: bytes, check: Check) -> None:
        with self._begun(key) as upload_id:
            piece = self._write_piece(key, upload_id, 1, data)
            check()
            self._join(key, upload_id, [piece])

    def put_new(self, key: str, data: bytes, check: Check = lambda: None) -> bool:
        """See Store. Whoever has ended the uploads of all others, and finds no object then, is the only one who can
        make it appear. The server's own condition, which many do not know, is asked for besides."""
        with self._begun(key) as upload_id:
            piece = self._write_piece(key, upload_id, 1, data)
            for other, others_id in self.list_uploads(key):
                if other == key and others_id != upload_id:
                    self.abort_upload(key, others_id)
            if not self._exists(key):
                check()
                if self._join_new(key, upload_id, piece):
                    return True
            self.abort_upload(key, upload_id)
        return self._holds(key, data)

    def put_file(self, key: str, path: str | os.PathLike[str], *, content_type: str = CONTENT_TYPE_DEFAULT) -> None:
        """See Store. Up to PIECE_BYTES in one request, more in pieces, a few at a time."""
        with SourceFile(path) as source:
            if source.size > PIECE_BYTES:
                self._write_file(key, source, content_type)
                return
            data = b"".join(source.blocks(PIECE_BYTES))
        self._bucket.ask("write", key, "put_object", Body=data, ContentType=content_type)
        self._bucket.check_size(key, self.head(key).size, len(data))

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        answer = self._bucket.ask("read", key, "get_object")
        data = self._body(answer, key, bytes_max)
        if data is None:
            raise Corrupt(f"{self._place}: {key} is larger than {bytes_max} bytes, the most that was expected", key=key)
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise UsageError(f"a range cannot have {length} bytes from {start}")
        if length == 0:
            self._check_reaches(key, self.head(key).size, start, 0)
            return b""
        wanted = f"bytes={start}-{start + length - 1}"
        answer = self._bucket.ask("read", key, "get_object", Range=wanted)
        span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", str(answer.get("ContentRange", "")))
        if span is None or int(span[1]) != start:
            answer["Body"].close()
            raise StoreRefused(f"{self._place}: it did not answer the range {wanted} of {key}", key=key)
        data = self._body(answer, key, length)
        if data is None:
            raise Corrupt(f"{self._place}: {key} gave more than the {length} bytes asked for", key=key)
        self._check_reaches(key, start + len(data), start, length)
        return data

    def head(self, key: str) -> ObjectInfo:
        return self._bucket.head(key)

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """See TellsRules."""
        return self._bucket.lifecycle()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        full, before = self._bucket.prefix + checked_prefix(prefix), ""
        for page in self._bucket.pages("list", prefix, "list_objects_v2", Prefix=full):
            for item in page.get("Contents", []):
                name = str(item["Key"])
                if not name.startswith(full) or name <= before:
                    raise Corrupt(f"{self._place}: its listing of {prefix} is not in key order at {name!a}")
                before = name
                # A key that ends in '/' is another tool's idea of a folder.
                if not name.endswith("/"):
                    key, modified_s = name[len(self._bucket.prefix) :], item["LastModified"].timestamp()
                    yield ObjectInfo(key, int(item["Size"]), modified_s)

    def delete(self, key: str) -> None:
        with suppress(NotFound):
            self._bucket.ask("delete", key, "delete_object")

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        return self._bucket.grant("get_object", key, expires_s)

    def close(self) -> None:
        self._client.close()

    def _body(self, answer: Any, key: str, bytes_max: int) -> bytes | None:
        """All of an answer's body, or None if it is larger than `bytes_max`."""
        body, claimed = answer["Body"], answer.get("ContentLength")
        data = bytearray()
        try:
            if claimed is not None and claimed > bytes_max:
                return None
            while len(data) <= bytes_max and (more := body.read(bytes_max + 1 - len(data))):
                data += more
        except FAULTS as error:
            raise s3_error(error, self._place, "read", key) from error
        finally:
            body.close()
        if len(data) > bytes_max:
            return None
        if claimed is not None and len(data) != claimed:
            raise StoreUnavailable(f"{self._place}: {key} broke off at byte {len(data)} of {claimed}", key=key)
        return bytes(data)

    def _exists(self, key: str) -> bool:
        try:
            self.head(key)
        except NotFound:
            return False
        return True

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get(key, bytes_max=len(data)) == data
        except (NotFound, Corrupt):
            return False

    def _check_reaches(self, key: str, end: int, start: int, length: int) -> None:
        if end < start + length:
            raise Corrupt(f"{self._place}: {key} ends at byte {end}, expected {length} bytes from {start}", key=key)
