"""What goes wrong with an S3 server, said in one line with endpoint and bucket, and without a secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3

from deployments.servers.s3_server import S3Server
from poorwill.engine.transfer.http import grant_error
from poorwill.errors import GrantExpired, NotFound, PoorwillError, StoreRefused, StoreUnavailable
from poorwill.store.base import Piece, Store
from poorwill.store.s3.store import S3Store
from tests.support.s3_connection import connect

HTTP = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10, read=60), retries=False)
WRONG = "w" * 64
CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("k", b"x"),
    "put_new": lambda store: store.put_new("k", b"x"),
    "get": lambda store: store.get("k"),
    "get_range": lambda store: store.get_range("k", 0, 1),
    "head": lambda store: store.head("k"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("k"),
    "create_upload": lambda store: store.create_upload("k"),
    "complete_upload": lambda store: store.complete_upload("k", "id", [Piece(1, "tag")], 1),
    "abort_upload": lambda store: store.abort_upload("k", "id"),
    "list_uploads": lambda store: list(store.list_uploads("")),
    "list_pieces": lambda store: store.list_pieces("k", "id"),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def assert_fit_to_show(error: PoorwillError, server: S3Server, bucket: str) -> None:
    text = f"{error} {error.facts}"
    assert "\n" not in text and "Traceback" not in text
    assert server.endpoint in text and bucket in text
    for secret in (server.secret_key, WRONG, "X-Amz-Signature", "X-Amz-Credential"):
        assert secret not in text


@every_call
def test_a_wrong_secret(s3_server: S3Server, call: Callable[[Store], object]) -> None:
    """StoreRefused that says to look at the credentials."""
    with pytest.raises(StoreRefused, match=r"credentials|AWS_SECRET_ACCESS_KEY") as caught:
        call(connect(s3_server, secret_key=WRONG))
    assert_fit_to_show(caught.value, s3_server, s3_server.bucket)


def test_an_unknown_access_key(s3_server: S3Server) -> None:
    """Told apart from a wrong secret; the key itself is not repeated."""
    with pytest.raises(StoreRefused, match="access key is not known") as caught:
        connect(s3_server, access_key="unknown-key-id").get("k")
    assert "unknown-key-id" not in str(caught.value)


@every_call
def test_a_missing_bucket(s3_server: S3Server, call: Callable[[Store], object]) -> None:
    """StoreRefused, not NotFound: an empty answer would read as "no snapshots"."""
    with pytest.raises(StoreRefused, match="no such bucket: create it") as caught:
        call(connect(s3_server, bucket="no-such-bucket"))
    assert_fit_to_show(caught.value, s3_server, "no-such-bucket")


def test_an_endpoint_that_is_down(tmp_path: Path) -> None:
    """StoreUnavailable while the server is killed; the same store works once it is back."""
    with S3Server(tmp_path / "s3") as server:
        store = connect(server, "p")
        store.put("k", b"x")
        server.kill()
        with pytest.raises(StoreUnavailable, match="check that it is up") as caught:
            store.get("k")
        assert_fit_to_show(caught.value, server, server.bucket)
        server.start()
        assert store.get("k") == b"x"


@every_call
def test_every_call_says_so_when_nobody_listens(s3_server: S3Server, call: Callable[[Store], object]) -> None:
    """Port 1 of loopback refuses at once: each operation gives StoreUnavailable, none a boto error."""
    store = S3Store.connect(
        "bucket",
        endpoint="http://127.0.0.1:1",
        region="us-east-1",
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
        attempts_max=1,
    )
    with pytest.raises(StoreUnavailable, match=r"s3://bucket at http://127\.0\.0\.1:1"):
        call(store)


def test_a_grant_that_expired(s3_server: S3Server, s3_store: S3Store) -> None:
    """The server refuses it, and its answer is told as GrantExpired, without the URL's query."""
    s3_store.put("k", b"x")
    upload_id = s3_store.create_upload("u")
    reading = str(s3_store.grant_read("k", expires_s=1).url)
    writing = str(s3_store.grant_piece("u", upload_id, 1, expires_s=1).url)
    deadline = time.monotonic() + 30
    while (answer := HTTP.request("GET", reading)).status == 200:
        assert time.monotonic() < deadline, "the grant outlives its second by half a minute"
    for url, refused in ((reading, answer), (writing, HTTP.request("PUT", writing, body=b"x"))):
        error = grant_error(url, refused.status, refused.data)
        assert isinstance(error, GrantExpired), refused.data
        assert_fit_to_show(error, s3_server, s3_server.bucket)
    assert s3_store.list_pieces("u", upload_id) == []


def test_a_grant_is_for_one_thing(s3_server: S3Server, s3_store: S3Store) -> None:
    """A changed key, piece, method or signature is refused, and that is StoreRefused."""
    s3_store.put("k", b"x")
    s3_store.put("other", b"y")
    upload_id = s3_store.create_upload("u")
    reading = str(s3_store.grant_read("k", expires_s=60).url)
    writing = str(s3_store.grant_piece("u", upload_id, 1, expires_s=60).url)
    for method, url in (
        ("GET", reading.replace("/k?", "/other?")),
        ("PUT", reading),
        ("DELETE", reading),
        ("PUT", writing.replace("partNumber=1", "partNumber=2")),
        ("GET", reading[:-1] + ("0" if reading[-1] != "0" else "1")),
        ("GET", reading.partition("?")[0]),
    ):
        answer = HTTP.request(method, url, body=b"z" if method == "PUT" else None)
        error = grant_error(url, answer.status, answer.data)
        assert isinstance(error, StoreRefused), (method, answer.status, answer.data)
        assert_fit_to_show(error, s3_server, s3_server.bucket)
    assert s3_store.get("k") == b"x"
    s3_store.abort_upload("u", upload_id)
    gone = HTTP.request("PUT", writing, body=b"x")
    assert isinstance(grant_error(writing, gone.status, gone.data), NotFound)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (
            403,
            b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
            GrantExpired,
        ),
        (403, b"<Error><Code>ExpiredToken</Code></Error>", GrantExpired),
        (403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", StoreRefused),
        (404, b"<Error><Code>NoSuchKey</Code></Error>", NotFound),
        (404, b"<Error><Code>NoSuchBucket</Code></Error>", StoreRefused),
        (503, b"<Error><Code>SlowDown</Code></Error>", StoreUnavailable),
        (500, b"", StoreUnavailable),
        (429, b"\xff" * 100_000, StoreUnavailable),
        (501, b"<Code>x?secret=1\n</Code>", StoreRefused),
    ],
)
def test_answers_to_grants(status: int, body: bytes, kind: type[PoorwillError]) -> None:
    """What real stores answer, and what no store should; never the query, never a second line."""
    error = grant_error("https://user:pw@host:9000/bucket/key?X-Amz-Signature=abc", status, body)
    assert type(error) is kind
    assert "https://host:9000/bucket/key" in str(error)
    for secret in ("abc", "pw", "secret", "\n"):
        assert secret not in str(error)
