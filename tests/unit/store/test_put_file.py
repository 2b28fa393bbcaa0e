"""Errors while a file is written into a store, at a chosen moment, with real clients and servers."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber

from deployments.servers.s3_server import S3Server
from poorwill.errors import Corrupt, StoreRefused, StoreUnavailable, UploadLost, WorkspaceError
from poorwill.retry import Backoff
from poorwill.store.local import LocalStore
from poorwill.store.retrying import RetryingStore
from poorwill.store.s3.client import s3_client
from poorwill.store.s3.store import S3Store
from poorwill.store.s3.uploads import PARALLEL_MAX, PIECE_BYTES
from poorwill.store.source_file import SourceFile
from tests.support.doubles.faulty_store import Fault, FaultyStore
from tests.support.s3_connection import connect

SIZE = 2 * PIECE_BYTES + 1  # three pieces
WHEN = datetime(2026, 1, 1, tzinfo=timezone.utc)
UNREACHABLE = EndpointConnectionError(endpoint_url="http://s3.invalid")


class Moments:
    """A client that counts its requests and calls `at(operation, count)` before each, which may act or fail."""

    def __init__(self, server: S3Server) -> None:
        self.client = s3_client(
            server.bucket,
            endpoint=server.endpoint,
            region="us-east-1",
            access_key=server.access_key,
            secret_key=server.secret_key,
            attempts_max=1,
        )
        self.at: Callable[[str, int], None] = lambda operation, count: None
        self.counts: Counter[str] = Counter()
        self.together_max = 0
        self._together = 0
        self._lock = threading.Lock()
        self.client.meta.events.register("before-call.s3", self._before)
        self.client.meta.events.register("after-call.s3", self._after)

    def _before(self, model: Any, **_: Any) -> None:
        with self._lock:
            self.counts[model.name] += 1
            count = self.counts[model.name]
            self._together += 1
            self.together_max = max(self.together_max, self._together)
        self.at(model.name, count)

    def _after(self, **_: Any) -> None:
        with self._lock:
            self._together -= 1


@pytest.fixture
def moments(s3_server: S3Server) -> Moments:
    return Moments(s3_server)


@pytest.fixture
def store(moments: Moments, s3_server: S3Server, tmp_path: Path) -> Iterator[S3Store]:
    """A store over that client, under a prefix of its own, with an old object as large as the file."""
    store = S3Store(moments.client, s3_server.bucket, f"put-file/{tmp_path.name}")
    store.put("k", b"\1" * SIZE)
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of SIZE zeros."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


def assert_only_the_old_one(store: S3Store) -> None:
    assert store.get_range("k", 0, SIZE) == b"\1" * SIZE
    assert [info.key for info in store.list("")] == ["k"]
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize(
    ("operation", "call"), [("CreateMultipartUpload", 1), ("UploadPart", 2), ("CompleteMultipartUpload", 1)]
)
def test_an_upload_that_breaks_leaves_no_trace(
    store: S3Store, moments: Moments, path: Path, operation: str, call: int
) -> None:
    """At its beginning, middle or end: a transient error, the old object stays, no upload is left; then it works."""

    def fail(name: str, count: int) -> None:
        if (name, count) == (operation, call):
            raise UNREACHABLE

    moments.at = fail
    with pytest.raises(StoreUnavailable, match="k: no answer"):
        store.put_file("k", path)
    assert_only_the_old_one(store)
    store.put_file("k", path)
    assert store.get_range("k", 0, SIZE) == bytes(SIZE)


def test_no_piece_is_begun_after_an_error(store: S3Store, moments: Moments, path: Path) -> None:
    """Of a thousand pieces, only those under way with the first are sent, and a few more."""
    os.truncate(path, 1000 * PIECE_BYTES)

    def fail(name: str, count: int) -> None:
        if name == "UploadPart":
            raise UNREACHABLE

    moments.at = fail
    with pytest.raises(StoreUnavailable):
        store.put_file("k", path)
    assert moments.counts["UploadPart"] < 100
    assert moments.counts["AbortMultipartUpload"] == 1


def test_the_first_error_comes_out_if_aborting_fails_too(store: S3Store, moments: Moments, path: Path) -> None:
    """Not the error of tidying up; the upload is listed, to be aborted later."""

    def fail(name: str, count: int) -> None:
        if name == "AbortMultipartUpload":
            raise UNREACHABLE
        if (name, count) == ("UploadPart", 1):
            os.truncate(path, 5)

    moments.at = fail
    with pytest.raises(WorkspaceError):
        store.put_file("k", path)
    assert [key for key, _ in store.list_uploads("")] == ["k"]


@pytest.mark.parametrize(
    ("size", "change", "how"),
    [
        (9 * PIECE_BYTES, lambda path: os.truncate(path, 5), f"has 5 bytes, and had {9 * PIECE_BYTES}"),
        (SIZE, lambda path: os.truncate(path, 5), f"has 5 bytes, and had {SIZE}"),
        (SIZE, lambda path: os.truncate(path, SIZE + 1), f"has {SIZE + 1} bytes, and had {SIZE}"),
        (SIZE, lambda path: os.utime(path, ns=(0, 0)), "written to"),
    ],
    ids=["shorter and not all read", "shorter", "longer", "rewritten"],
)
def test_a_file_that_changes_midway(
    store: S3Store, moments: Moments, path: Path, size: int, change: Callable[[Path], None], how: str
) -> None:
    """While its first piece is sent: no mixture is stored, and the error names the file."""

    def act(name: str, count: int) -> None:
        if (name, count) == ("UploadPart", 1):
            change(path)

    moments.at = act
    os.truncate(path, size)
    with pytest.raises(WorkspaceError, match=how):
        store.put_file("k", path)
    assert_only_the_old_one(store)


def test_a_file_is_checked_after_its_last_byte(path: Path) -> None:
    """However it is read, also in a single block."""
    for block_bytes in (SIZE, 1 << 20):
        os.truncate(path, SIZE)
        with SourceFile(path) as source, pytest.raises(WorkspaceError, match=f"file changed.*has {SIZE + 1} bytes"):
            for block in source.blocks(block_bytes):
                assert block == bytes(len(block))
                os.truncate(path, SIZE + 1)


def test_reading_beyond_the_end_of_a_file_is_an_error(path: Path) -> None:
    """At once, not a short piece."""
    with SourceFile(path) as source:
        assert source.read(SIZE - 3, 3) == bytes(3)
        with pytest.raises(WorkspaceError, match=f"reading ended at byte {SIZE} of {SIZE}"):
            source.read(SIZE - 1, 2)
        os.truncate(path, 5)
        with pytest.raises(WorkspaceError, match="has 5 bytes, and had"):
            source.read(3, 3)


def test_a_new_file_under_the_same_name_is_not_mixed_in(store: S3Store, moments: Moments, path: Path) -> None:
    """The file is opened once."""

    def act(name: str, count: int) -> None:
        if (name, count) == ("UploadPart", 1):
            path.rename(path.with_name("other"))
            path.write_bytes(b"another file")

    moments.at = act
    store.put_file("k", path)
    assert store.get_range("k", 0, SIZE) == bytes(SIZE)


def test_an_upload_that_the_store_forgot(store: S3Store, moments: Moments, path: Path) -> None:
    """An older object of the same size does not count as success; RetryingStore writes the file."""

    def forget(name: str, count: int) -> None:
        if (name, count) == ("CompleteMultipartUpload", 1):
            for key, upload_id in store.list_uploads(""):
                store.abort_upload(key, upload_id)

    moments.at = forget
    with pytest.raises(UploadLost, match="forgot its unfinished upload of k"):
        store.put_file("k", path)
    assert_only_the_old_one(store)
    moments.counts.clear()
    RetryingStore(store, Backoff(0.0, attempts_max=5)).put_file("k", path)
    assert moments.counts["CompleteMultipartUpload"] == 2
    assert store.get_range("k", 0, SIZE) == bytes(SIZE)


def test_memory_and_requests_are_bounded(store: S3Store, moments: Moments, path: Path) -> None:
    """A file of 12 pieces takes the memory of those that are written at the same time."""
    os.truncate(path, 12 * PIECE_BYTES)
    tracemalloc.start()
    try:
        store.put_file("k", path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.head("k").size == 12 * PIECE_BYTES
    assert moments.counts["UploadPart"] == 12
    assert 1 < moments.together_max <= PARALLEL_MAX
    assert peak_bytes < (PARALLEL_MAX + 1) * PIECE_BYTES


def test_pieces_are_larger_if_there_would_be_too_many(
    store: S3Store, moments: Moments, s3_server: S3Server, path: Path, tmp_path: Path
) -> None:
    """An upload has at most `pieces_max` pieces."""

    class Few(S3Store):
        pieces_max = 2

    Few(moments.client, s3_server.bucket, f"put-file/{tmp_path.name}").put_file("few", path)
    assert moments.counts["UploadPart"] == 2
    assert store.get_range("few", 0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("size", [5, SIZE], ids=["small", "large"])
def test_a_store_that_reports_another_size(path: Path, size: int) -> None:
    """Corrupt, whether the file was sent whole or in pieces."""
    os.truncate(path, size)
    client = s3_client("b", endpoint="http://s3.invalid", region="r", access_key="a", secret_key="s")
    with Stubber(client) as script:
        if size == 5:
            script.add_response("put_object", {}, {"Bucket": "b", "Key": "k", "Body": bytes(5), "ContentType": "a/b"})
        else:
            script.add_response(
                "create_multipart_upload", {"UploadId": "u"}, {"Bucket": "b", "Key": "k", "ContentType": "a/b"}
            )
            for _ in range(3):
                script.add_response("upload_part", {"ETag": "t"})
            script.add_response("complete_multipart_upload", {})
        script.add_response("head_object", {"ContentLength": 4, "LastModified": WHEN})
        with pytest.raises(Corrupt, match=f"k holds 4 bytes, expected {size}"):
            S3Store(client, "b").put_file("k", path, content_type="a/b")
        script.assert_no_pending_responses()


@pytest.mark.parametrize("size", [5, SIZE], ids=["small", "large"])
def test_refusals_name_the_endpoint(s3_server: S3Server, path: Path, size: int) -> None:
    """Wrong credentials and a missing bucket, in one line, whether the file is sent whole or in pieces."""
    os.truncate(path, size)
    for other, words in (({"secret_key": "w" * 64}, "AWS_SECRET_ACCESS_KEY"), ({"bucket": "none"}, "no such bucket")):
        with pytest.raises(StoreRefused, match=words) as caught:
            connect(s3_server, **other).put_file("k", path)
        assert s3_server.endpoint in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_takes_a_file_in_bounded_memory(local_store: LocalStore, path: Path) -> None:
    """A few blocks at a time; nothing stays beside the object."""
    os.truncate(path, 64 << 20)
    tracemalloc.start()
    try:
        local_store.put_file("k", path)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20
    root = Path(local_store.url.removeprefix("file://"))
    assert [found for found in root.rglob("*") if found.is_file()] == [root / "k"]


def test_a_directory_that_refuses_a_file_keeps_nothing(local_store: LocalStore, path: Path) -> None:
    """The name turns out to be taken after all bytes were copied: they are removed."""
    local_store.put("k", b"old")
    with pytest.raises(StoreRefused, match="folder"):
        local_store.put_file("k/below", path)
    root = Path(local_store.url.removeprefix("file://"))
    assert [found for found in root.rglob("*") if found.is_file()] == [root / "k"]


def test_a_file_is_sent_again_however_long_an_attempt_takes(local_store: LocalStore, path: Path) -> None:
    """Two errors, each an hour after the call: the time that a large file takes does not count."""
    waits: list[float] = []
    hours = iter(range(0, 3600 * 100, 3600))
    faulty = FaultyStore(local_store, [Fault("put_file", call=n, error=StoreUnavailable("down")) for n in (1, 2)])
    store = RetryingStore(faulty, sleep=waits.append, clock=lambda: float(next(hours)))
    store.put_file("k", path)
    assert (faulty.calls["put_file"], len(waits)) == (3, 2)
    assert local_store.head("k").size == SIZE


def test_attempts_are_bounded_and_a_bad_file_gets_one(local_store: LocalStore, path: Path) -> None:
    """The attempts are as many as asked for; an error of the file itself comes out at once."""
    waits: list[float] = []
    down = FaultyStore(local_store, [Fault("put_file", call=0, error=StoreUnavailable("down"))])
    with pytest.raises(StoreUnavailable):
        RetryingStore(down, Backoff(0.25, attempts_max=3), sleep=waits.append).put_file("k", path)
    assert (down.calls["put_file"], len(waits)) == (3, 2)
    calm = FaultyStore(local_store)
    with pytest.raises(WorkspaceError):
        RetryingStore(calm, sleep=waits.append).put_file("k", path.with_name("missing"))
    assert (calm.calls["put_file"], len(waits)) == (1, 2)
