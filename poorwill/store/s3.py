"""A store in a bucket of Amazon S3, or of anything that speaks its protocol.

Depends on what all of them have: signature version 4, multipart uploads, ranged reads, listings in key
order. Not on conditional writes, nor on an ETag being an MD5, nor on status 206 for a range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ..aws_answers import FAULTS, code_of
from ..errors import Corrupt, NotFound, PoorwillError, StoreRefused, StoreUnavailable, UsageError
from .base import SMALL_OBJECT_BYTES_MAX, Grant, ObjectInfo, Piece, Pieces
from .object_key import checked_key, checked_prefix, checked_store_prefix
from .s3_client import s3_client, shown_endpoint
from .s3_errors import s3_error, was_retried

EXPIRES_S_MAX = 7 * 24 * 3600  # of a signature version 4


class S3Store:
    """Store over a bucket and a prefix in it.

    Unfinished uploads and their pieces are what the server's listings say; a server that keeps them in
    memory (`rclone serve s3`) forgets them when it restarts, and one without those listings
    (it answers 405 or 501) has none as far as `list_uploads` and `list_pieces` tell.
    """

    piece_bytes_min = 5 << 20
    pieces_max = 10_000

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        """`client` is a boto3 S3 client, closed with the store; see `connect` for one that fits."""
        self._client = client
        self._bucket = bucket
        prefix = checked_store_prefix(prefix)
        self._prefix = prefix + "/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._place = f"{self.url} at {shown_endpoint(client.meta.endpoint_url)}"
        self._bucket_seen = False
        self._conditional = True

    @classmethod
    def connect(cls, bucket: str, prefix: str = "", **connection: Any) -> S3Store:
        """A store with a client of its own; `connection` is what `s3_client` takes."""
        return cls(s3_client(bucket, **connection), bucket, prefix)

    def describe(self) -> str:
        return self._place

    def put(self, key: str, data: bytes) -> None:
        self._ask("write", key, self._client.put_object, Key=self._full(key), Body=data)

    def put_new(self, key: str, data: bytes) -> bool:
        try:
            self.head(key)
            return False
        except NotFound:
            pass
        if not self._conditional:
            self.put(key, data)
            return True
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=data, IfNoneMatch="*")
            return True
        except FAULTS as error:
            code = code_of(error)
            if code in ("PreconditionFailed", "412"):
                # The answer to an earlier try of this same request may have been lost.
                return was_retried(getattr(error, "response", {})) and self._holds(key, data)
            if code in ("NotImplemented", "501"):
                self._conditional = False
                return self.put_new(key, data)
            raise s3_error(error, self._place, "write", key) from error

    def get(self, key: str, *, bytes_max: int = SMALL_OBJECT_BYTES_MAX) -> bytes:
        answer = self._ask("read", key, self._client.get_object, Key=self._full(key))
        data = self._body(answer, key, bytes_max)
        if data is None:
            raise Corrupt(f"{self._place}: {key} is larger than the {bytes_max} bytes expected at most", key=key)
        return data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise UsageError(f"not a range: {length} bytes from {start}")
        if length == 0:
            self._check_reaches(key, self.head(key).size, start, 0)
            return b""
        wanted = f"bytes={start}-{start + length - 1}"
        answer = self._ask("read", key, self._client.get_object, Key=self._full(key), Range=wanted)
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
        answer = self._ask("look at", key, self._client.head_object, Key=self._full(key))
        return ObjectInfo(key, int(answer["ContentLength"]), answer["LastModified"].timestamp())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        full, before = self._prefix + checked_prefix(prefix), ""
        token: str | None = None
        while True:
            more: dict[str, str] = {"ContinuationToken": token} if token else {}
            page = self._ask("list", prefix, self._client.list_objects_v2, Prefix=full, **more)
            for item in page.get("Contents", []):
                name = str(item["Key"])
                # Also what ends a listing that goes in circles.
                if not name.startswith(full) or name <= before:
                    raise Corrupt(f"{self._place}: its listing of {prefix} is not in key order at {name!a}")
                before = name
                # A key that ends in '/' is a folder drawn by some other tool.
                if not name.endswith("/"):
                    yield ObjectInfo(name[len(self._prefix) :], int(item["Size"]), item["LastModified"].timestamp())
            following = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            if following is None:
                return
            if following == token:
                raise StoreUnavailable(f"{self._place}: its listing of {prefix} does not go on")
            token = following

    def delete(self, key: str) -> None:
        try:
            self._ask("delete", key, self._client.delete_object, Key=self._full(key))
        except NotFound:
            return

    def create_upload(self, key: str) -> str:
        create = self._client.create_multipart_upload
        return str(self._ask("begin an upload of", key, create, Key=self._full(key))["UploadId"])

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        if not 1 <= number <= self.pieces_max:
            raise UsageError(f"not a piece number: {number}; they go from 1 to {self.pieces_max}")
        return self._grant("upload_part", key, expires_s, UploadId=upload_id, PartNumber=number)

    def grant_read(self, key: str, *, expires_s: int) -> Grant:
        return self._grant("get_object", key, expires_s)

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        """See Store. An upload whose pieces all name their sizes is checked before it becomes an object;
        one of another size that the store alone could see is left for its owner to judge."""
        ordered = sorted(pieces, key=lambda piece: piece.number)
        if not ordered or len({piece.number for piece in ordered}) < len(ordered):
            raise UsageError(f"{self._place}: an upload of {key} needs pieces, each number once", key=key)
        if all(piece.size for piece in ordered):
            self._check_size(key, sum(piece.size for piece in ordered), size)
        parts = [{"PartNumber": piece.number, "ETag": piece.tag} for piece in ordered]
        gone: NotFound | None = None
        try:
            self._ask(
                "complete",
                key,
                self._client.complete_multipart_upload,
                Key=self._full(key),
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except NotFound as error:
            gone = error
        try:
            found = self.head(key).size
        except NotFound as error:
            raise (gone or error) from None
        self._check_size(key, found, size)

    def abort_upload(self, key: str, upload_id: str) -> None:
        abort = self._client.abort_multipart_upload
        try:
            self._ask("abort an upload of", key, abort, Key=self._full(key), UploadId=upload_id)
        except NotFound:
            return

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        full = self._prefix + checked_prefix(prefix)
        markers: dict[str, str] = {}
        while True:
            try:
                page = self._ask("list uploads of", prefix, self._client.list_multipart_uploads, Prefix=full, **markers)
            except StoreRefused as error:
                if not _has_no_listing(error):
                    raise
                return
            except NotFound:
                return  # rclone's answer where nothing was ever uploaded; a missing bucket is StoreRefused
            for item in page.get("Uploads", []):
                name = str(item["Key"])
                if name.startswith(full):
                    yield name[len(self._prefix) :], str(item["UploadId"])
            following = {
                "KeyMarker": str(page.get("NextKeyMarker", "")),
                "UploadIdMarker": str(page.get("NextUploadIdMarker", "")),
            }
            if not page.get("IsTruncated"):
                return
            if following == markers or not following["KeyMarker"]:
                raise StoreUnavailable(f"{self._place}: its listing of uploads does not go on")
            markers = following

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        pieces: Pieces = []
        marker = 0
        while True:
            try:
                page = self._ask(
                    "list the pieces of",
                    key,
                    self._client.list_parts,
                    Key=self._full(key),
                    UploadId=upload_id,
                    PartNumberMarker=marker,
                )
            except StoreRefused as error:
                if not _has_no_listing(error):
                    raise
                return []
            for item in page.get("Parts", []):
                pieces.append(Piece(int(item["PartNumber"]), str(item["ETag"]), int(item["Size"])))
            following = int(page.get("NextPartNumberMarker") or 0)
            if not page.get("IsTruncated") or following <= marker:
                return pieces
            marker = following

    def close(self) -> None:
        self._client.close()

    def _full(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _ask(self, verb: str, key: str, call: Callable[..., Any], **parameters: Any) -> Any:
        try:
            answer = call(Bucket=self._bucket, **parameters)
        except FAULTS as error:
            failure = s3_error(error, self._place, verb, key)
            # A HEAD's answer has no body that would say what is missing, and some servers look for the
            # upload before the bucket.
            unclear = isinstance(failure, NotFound) and code_of(error) in ("404", "NoSuchUpload")
            if unclear and not self._bucket_seen:
                self._check_bucket()
            raise failure from error
        self._bucket_seen = True
        return answer

    def _check_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except FAULTS as error:
            failure: PoorwillError = s3_error(error, self._place, "look at", "the bucket")
            if isinstance(failure, NotFound):
                failure = StoreRefused(
                    f"{self._place}: there is no such bucket: create it, or correct the store's address"
                )
            raise failure from error
        self._bucket_seen = True

    def _grant(self, operation: str, key: str, expires_s: int, **parameters: Any) -> Grant:
        if not 1 <= expires_s <= EXPIRES_S_MAX:
            raise UsageError(f"a grant lives 1 to {EXPIRES_S_MAX} s, not {expires_s}")
        wanted = {"Bucket": self._bucket, "Key": self._full(key), **parameters}
        try:
            url = self._client.generate_presigned_url(operation, Params=wanted, ExpiresIn=expires_s)
        except FAULTS as error:
            raise s3_error(error, self._place, "sign a grant for", key) from error
        return Grant(url=str(url))

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

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get_range(key, 0, len(data)) == data and self.head(key).size == len(data)
        except (NotFound, Corrupt):
            return False

    def _check_size(self, key: str, found: int, expected: int) -> None:
        if found != expected:
            raise Corrupt(f"{self._place}: {key} holds {found} bytes, expected {expected}", key=key)

    def _check_reaches(self, key: str, end: int, start: int, length: int) -> None:
        if end < start + length:
            raise Corrupt(f"{self._place}: {key} ends at byte {end}, expected {length} bytes from {start}", key=key)


def _has_no_listing(error: StoreRefused) -> bool:
    return error.facts.get("status") in (405, 501)
