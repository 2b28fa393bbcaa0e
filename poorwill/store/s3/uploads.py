"""Multipart uploads into a bucket: by holders of grants, and of local files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

from poorwill.errors import NotFound, PoorwillError, StoreRefused, UploadLost, UsageError
from poorwill.store.base import Grant, Piece, Pieces
from poorwill.store.object_key import checked_prefix
from poorwill.store.s3.bucket import S3Bucket
from poorwill.store.source_file import SourceFile

PIECE_BYTES = 8 << 20  # of a local file; more if there would be more than `pieces_max`
IN_FLIGHT_BYTES_MAX = 64 << 20
PARALLEL_MAX = 4


class S3Uploads:
    """The part of an S3Store that is about unfinished uploads. See Store for what the methods promise."""

    piece_bytes_min = 5 << 20
    pieces_max = 10_000

    def __init__(self, bucket: S3Bucket) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._place = bucket.place
        self._conditional = True

    def create_upload(self, key: str, **recorded: str) -> str:
        """See Store. `recorded` are further arguments of the client's call, such as ContentType."""
        answer = self._bucket.ask("begin an upload of", key, "create_multipart_upload", **recorded)
        return str(answer["UploadId"])

    def grant_piece(self, key: str, upload_id: str, number: int, *, expires_s: int) -> Grant:
        if not 1 <= number <= self.pieces_max:
            raise UsageError(f"piece number {number}: expected 1 to {self.pieces_max}")
        return self._bucket.grant("upload_part", key, expires_s, UploadId=upload_id, PartNumber=number)

    def complete_upload(self, key: str, upload_id: str, pieces: Pieces, size: int) -> None:
        """See Store. If all pieces name their sizes, the sum is checked before the object appears. An object whose size
        turns out wrong only afterwards is not removed."""
        ordered = sorted(pieces, key=lambda piece: piece.number)
        if not ordered or len({piece.number for piece in ordered}) < len(ordered):
            raise UsageError(f"{self._place}: an upload of {key} needs pieces, each number once", key=key)
        if all(piece.size for piece in ordered):
            self._bucket.check_size(key, sum(piece.size for piece in ordered), size)
        gone: NotFound | None = None
        try:
            self._join(key, upload_id, ordered)
        except NotFound as error:
            gone = error
        try:
            found = self._bucket.head(key).size
        except NotFound as error:
            raise (gone or error) from None
        self._bucket.check_size(key, found, size)

    def abort_upload(self, key: str, upload_id: str) -> None:
        with suppress(NotFound):
            self._bucket.ask("abort an upload of", key, "abort_multipart_upload", UploadId=upload_id)

    def list_uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        full = self._bucket.prefix + checked_prefix(prefix)
        try:
            for page in self._bucket.pages("list uploads of", prefix, "list_multipart_uploads", Prefix=full):
                for item in page.get("Uploads", []):
                    name = str(item["Key"])
                    if name.startswith(full):
                        yield name[len(self._bucket.prefix) :], str(item["UploadId"])
        except StoreRefused as error:
            if not _has_no_listing(error):
                raise
        except NotFound:
            return  # rclone's answer before the first upload; a missing bucket is StoreRefused

    def list_pieces(self, key: str, upload_id: str) -> Pieces:
        wanted = {"Key": self._bucket.full(key), "UploadId": upload_id}
        try:
            return [
                Piece(int(item["PartNumber"]), str(item["ETag"]), int(item["Size"]))
                for page in self._bucket.pages("list the pieces of", key, "list_parts", **wanted)
                for item in page.get("Parts", [])
            ]
        except StoreRefused as error:
            if not _has_no_listing(error):
                raise
            return []

    def _write_file(self, key: str, source: SourceFile, content_type: str) -> None:
        """See Store.put_file. UploadLost if the store forgot the upload meanwhile. Takes at most IN_FLIGHT_BYTES_MAX of
        memory, or one piece if that is larger: from 625 GiB on."""
        with self._begun(key, ContentType=content_type) as upload_id:
            pieces = self._write_pieces(key, upload_id, source)
            source.check()
            # Not `complete_upload`, which takes an older object of the same size for this upload's own success.
            self._join(key, upload_id, pieces)
        self._bucket.check_size(key, self._bucket.head(key).size, source.size)

    @contextmanager
    def _begun(self, key: str, **recorded: str) -> Iterator[str]:
        """An upload that is to be completed inside, and is dropped if that fails. UploadLost for NotFound."""
        upload_id = self.create_upload(key, **recorded)
        try:
            yield upload_id
        except BaseException as error:
            # If aborting fails too, `list_uploads` shows the upload; the first error says more than the second.
            with suppress(PoorwillError):
                self.abort_upload(key, upload_id)
            if isinstance(error, NotFound):
                raise UploadLost(f"{self._place}: it forgot its unfinished upload of {key}", key=key) from error
            raise

    def _write_pieces(self, key: str, upload_id: str, source: SourceFile) -> Pieces:
        """The pieces in order. After an error, those under way are waited for and no other is begun."""
        piece_bytes = max(PIECE_BYTES, -(-source.size // self.pieces_max))

        def write(number: int, start: int) -> Piece:
            data = source.read(start, min(piece_bytes, source.size - start))
            return self._write_piece(key, upload_id, number, data)

        starts = range(0, source.size, piece_bytes)
        with ThreadPoolExecutor(max(1, min(PARALLEL_MAX, IN_FLIGHT_BYTES_MAX // piece_bytes))) as pool:
            writing = [pool.submit(write, number, start) for number, start in enumerate(starts, 1)]
            try:
                wait(writing, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            return [piece.result() for piece in writing]

    def _write_piece(self, key: str, upload_id: str, number: int, data: bytes) -> Piece:
        answer = self._bucket.ask(
            "write a piece of", key, "upload_part", UploadId=upload_id, PartNumber=number, Body=data
        )
        return Piece(number, str(answer["ETag"]), len(data))

    def _join(self, key: str, upload_id: str, ordered: Pieces, **condition: str) -> None:
        """Make the object appear. NotFound if there is no such upload, also if it was completed before."""
        parts = {"Parts": [{"PartNumber": piece.number, "ETag": piece.tag} for piece in ordered]}
        wanted = {"UploadId": upload_id, "MultipartUpload": parts, **condition}
        self._bucket.ask("complete", key, "complete_multipart_upload", **wanted)

    def _join_new(self, key: str, upload_id: str, piece: Piece) -> bool:
        """Make an object of one piece appear, unless there is one: then False, as far as the server looks."""
        if self._conditional:
            try:
                self._join(key, upload_id, [piece], IfNoneMatch="*")
                return True
            except PoorwillError as error:
                if error.facts.get("status") == 412:
                    return False
                if error.facts.get("status") not in (400, 501):
                    raise
                self._conditional = False  # some servers refuse what they do not know
        self._join(key, upload_id, [piece])
        return True


def _has_no_listing(error: StoreRefused) -> bool:
    return error.facts.get("status") in (405, 501)
