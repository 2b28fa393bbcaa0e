"""S3Store and answers that the tests' S3 server does not give, but other servers do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from poorwill.errors import Corrupt, NotFound, StoreRefused, StoreUnavailable
from poorwill.store.base import Piece
from poorwill.store.s3.client import s3_client
from poorwill.store.s3.store import S3Store

WHEN = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def scripted() -> Iterator[tuple[S3Store, Stubber]]:
    """A store whose client answers from a script; every answer must have been asked for."""
    client = s3_client("b", endpoint="http://s3.invalid", region="r", access_key="a", secret_key="s")
    with Stubber(client) as script:
        yield S3Store(client, "b", "p"), script
        script.assert_no_pending_responses()


def refuse(script: Stubber, operation: str, code: str, status: int, retries: int = 0) -> None:
    script.add_client_error(operation, code, http_status_code=status, response_meta={"RetryAttempts": retries})


def body(data: bytes, claimed: int | None = None) -> dict[str, Any]:
    length = len(data) if claimed is None else claimed
    return {"Body": StreamingBody(io.BytesIO(data), length), "ContentLength": length}


def item(key: str) -> dict[str, Any]:
    return {"Key": key, "Size": 1, "LastModified": WHEN}


def begin_new(script: Stubber, key: str = "k") -> None:
    """All of a put_new but its last step: no other upload, and no object."""
    script.add_response("create_multipart_upload", {"UploadId": "u"})
    script.add_response("upload_part", {"ETag": '"1"'})
    script.add_response("list_multipart_uploads", {"Uploads": [{"Key": f"p/{key}", "UploadId": "u"}]})
    refuse(script, "head_object", "404", 404)


def complete(script: Stubber, key: str = "k", **condition: str) -> None:
    parts = {"Parts": [{"PartNumber": 1, "ETag": '"1"'}]}
    wanted = {"Bucket": "b", "Key": f"p/{key}", "UploadId": "u", "MultipartUpload": parts, **condition}
    script.add_response("complete_multipart_upload", {}, wanted)


@pytest.mark.parametrize(("held", "ours"), [(b"mine", True), (b"them", False), (b"mine, longer", False)])
def test_put_new_where_the_server_looks_as_well(scripted: tuple[S3Store, Stubber], held: bytes, ours: bool) -> None:
    """412 after a HEAD that found nothing: another writer was faster, or this very request was sent before."""
    store, script = scripted
    begin_new(script)
    refuse(script, "complete_multipart_upload", "PreconditionFailed", 412)
    script.add_response("abort_multipart_upload", {})
    script.add_response("get_object", body(held))
    assert store.put_new("k", b"mine") is ours


@pytest.mark.parametrize(("code", "status"), [("NotImplemented", 501), ("InvalidArgument", 400)])
def test_put_new_without_conditional_writes(scripted: tuple[S3Store, Stubber], code: str, status: int) -> None:
    """After one refusal the condition is left out, now and from then on."""
    store, script = scripted
    begin_new(script)
    refuse(script, "complete_multipart_upload", code, status)
    complete(script)
    assert store.put_new("k", b"x") is True
    begin_new(script, "k2")
    complete(script, "k2")
    assert store.put_new("k2", b"x") is True


def test_put_new_asks_the_server_to_look(scripted: tuple[S3Store, Stubber]) -> None:
    """And ends the uploads of others first, but for those of longer keys."""
    store, script = scripted
    script.add_response("create_multipart_upload", {"UploadId": "u"})
    script.add_response("upload_part", {"ETag": '"1"'})
    found = [("p/k", "u"), ("p/k", "other"), ("p/k2", "longer")]
    script.add_response("list_multipart_uploads", {"Uploads": [{"Key": k, "UploadId": u} for k, u in found]})
    script.add_response("abort_multipart_upload", {}, {"Bucket": "b", "Key": "p/k", "UploadId": "other"})
    refuse(script, "head_object", "404", 404)
    complete(script, IfNoneMatch="*")
    assert store.put_new("k", b"x") is True


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, StoreUnavailable),
        ("InternalError", 500, StoreUnavailable),
        ("RequestTimeout", 400, StoreUnavailable),
        ("AnyOther", 429, StoreUnavailable),
        ("AnyOther", 502, StoreUnavailable),
        ("ConditionalRequestConflict", 409, StoreUnavailable),
        ("ExpiredToken", 400, StoreRefused),
        ("AuthorizationHeaderMalformed", 400, StoreRefused),
        ("PermanentRedirect", 301, StoreRefused),
        ("AccessDenied", 403, StoreRefused),
        ("NotImplemented", 501, StoreRefused),
        ("Odd\nCode <b>", 418, StoreRefused),
        ("NoSuchKey", 404, NotFound),
    ],
)
def test_error_codes(scripted: tuple[S3Store, Stubber], code: str, status: int, kind: type[Exception]) -> None:
    """Transient or permanent, in one line, without the server's own text."""
    store, script = scripted
    script.add_client_error("get_object", code, "AWSAccessKeyId=AKIA-SECRET", http_status_code=status)
    with pytest.raises(kind, match=r"s3://b/p at http://s3\.invalid") as caught:
        store.get("k")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and "SECRET" not in str(caught.value)


def test_a_listing_out_of_order_is_corrupt(scripted: tuple[S3Store, Stubber]) -> None:
    """Also one that goes in circles, and one that answers with another prefix's keys."""
    store, script = scripted
    for keys in (["p/b", "p/a"], ["p/a", "p/a"], ["q/a"]):
        script.add_response("list_objects_v2", {"Contents": [item(key) for key in keys]})
        with pytest.raises(Corrupt, match="order"):
            list(store.list(""))
    script.add_response("list_objects_v2", {"IsTruncated": True, "NextContinuationToken": "t"})
    script.add_response("list_objects_v2", {"IsTruncated": True, "NextContinuationToken": "t"})
    with pytest.raises(StoreUnavailable, match="goes in circles"):
        list(store.list(""))


def test_folders_of_other_tools_are_not_objects(scripted: tuple[S3Store, Stubber]) -> None:
    """Consoles make empty objects that end in '/'."""
    store, script = scripted
    script.add_response("list_objects_v2", {"Contents": [item("p/"), item("p/a/"), item("p/a/b")]})
    assert [info.key for info in store.list("")] == ["a/b"]


def test_stores_without_listings_of_uploads(scripted: tuple[S3Store, Stubber]) -> None:
    """405 and 501 give an empty list; any other refusal is an error."""
    store, script = scripted
    refuse(script, "list_multipart_uploads", "MethodNotAllowed", 405)
    assert list(store.list_uploads("")) == []
    refuse(script, "list_parts", "NotImplemented", 501)
    assert store.list_pieces("k", "id") == []
    refuse(script, "list_multipart_uploads", "AccessDenied", 403)
    with pytest.raises(StoreRefused):
        list(store.list_uploads(""))
    refuse(script, "list_parts", "AccessDenied", 403)
    with pytest.raises(StoreRefused):
        store.list_pieces("k", "id")


def test_uploads_and_pieces_beyond_a_page(scripted: tuple[S3Store, Stubber]) -> None:
    """Markers are followed; one that does not advance ends the listing."""
    store, script = scripted
    page = {"IsTruncated": True, "NextKeyMarker": "p/a", "NextUploadIdMarker": "1"}
    script.add_response("list_multipart_uploads", {**page, "Uploads": [{"Key": "p/a", "UploadId": "1"}]})
    script.add_response(
        "list_multipart_uploads",
        {"Uploads": [{"Key": "p/b", "UploadId": "2"}]},
        {"Bucket": "b", "Prefix": "p/", "KeyMarker": "p/a", "UploadIdMarker": "1"},
    )
    assert list(store.list_uploads("")) == [("a", "1"), ("b", "2")]
    script.add_response("list_multipart_uploads", page)
    script.add_response("list_multipart_uploads", page)
    with pytest.raises(StoreUnavailable, match="goes in circles"):
        list(store.list_uploads(""))
    for number, more in ((1, True), (2, False)):
        part = {"PartNumber": number, "ETag": "t", "Size": 5}
        answer = {"Parts": [part], "IsTruncated": more, "NextPartNumberMarker": number}
        script.add_response("list_parts", answer)
    assert store.list_pieces("k", "id") == [Piece(1, "t", 5), Piece(2, "t", 5)]


def test_an_answer_with_another_range_is_refused(scripted: tuple[S3Store, Stubber]) -> None:
    """Also a whole object in place of a range."""
    store, script = scripted
    for answer in (body(b"whole"), {**body(b"le"), "ContentRange": "bytes 3-4/5"}):
        script.add_response("get_object", answer)
        with pytest.raises(StoreRefused, match="range"):
            store.get_range("k", 1, 2)
    script.add_response("get_object", {**body(b"x" * 9), "ContentRange": "bytes 1-9/10"})
    with pytest.raises(Corrupt, match="more than"):
        store.get_range("k", 1, 2)


def test_sizes_that_the_store_claims_are_checked(scripted: tuple[S3Store, Stubber]) -> None:
    """More bytes than bytes_max are not read; fewer than claimed are a broken connection."""
    store, script = scripted
    script.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"x" * 100), None)})
    with pytest.raises(Corrupt, match="larger"):
        store.get("k", bytes_max=10)
    script.add_response("get_object", body(b"half", claimed=8))
    with pytest.raises(StoreUnavailable):
        store.get("k")


def test_completing_with_wrong_pieces_or_size_is_corrupt(scripted: tuple[S3Store, Stubber]) -> None:
    """Also if the object exists by then."""
    store, script = scripted
    refuse(script, "complete_multipart_upload", "InvalidPart", 400)
    with pytest.raises(Corrupt, match="pieces"):
        store.complete_upload("k", "id", [Piece(1, "t")], 5)
    script.add_response("complete_multipart_upload", {})
    script.add_response("head_object", {"ContentLength": 4, "LastModified": WHEN})
    with pytest.raises(Corrupt, match="4 bytes, expected 5"):
        store.complete_upload("k", "id", [Piece(1, "t")], 5)
