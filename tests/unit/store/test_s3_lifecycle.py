"""What a bucket says of the days to come: archives, announced deletions, and the rules for both.

Against answers as Amazon documents them, and against moto's server, which keeps rules and storage classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from poorwill.control.records.prospects import Rules
from poorwill.errors import Unsupported
from poorwill.store.base import LifecycleRule, ObjectInfo
from poorwill.store.local import LocalStore
from poorwill.store.retrying import RetryingStore
from poorwill.store.s3 import lifecycle
from poorwill.store.s3.client import s3_client
from poorwill.store.s3.store import S3Store

WHEN = datetime(2026, 1, 1, tzinfo=timezone.utc)
BUCKET = "weights"


@pytest.fixture
def scripted() -> Iterator[tuple[S3Store, Stubber]]:
    client = s3_client("b", endpoint="http://s3.invalid", region="r", access_key="a", secret_key="s")
    with Stubber(client) as script:
        yield S3Store(client, "b", "p"), script
        script.assert_no_pending_responses()


def head(scripted: tuple[S3Store, Stubber], **answer: str) -> ObjectInfo:
    store, script = scripted
    script.add_response("head_object", {"ContentLength": 1, "LastModified": WHEN, **answer})
    return store.head("k")


@pytest.mark.parametrize(
    ("answer", "archive"),
    [
        ({}, ""),
        ({"StorageClass": "STANDARD_IA"}, ""),
        ({"StorageClass": "GLACIER_IR"}, ""),
        ({"StorageClass": "INTELLIGENT_TIERING"}, ""),
        ({"StorageClass": "GLACIER"}, "GLACIER"),
        ({"StorageClass": "DEEP_ARCHIVE"}, "DEEP_ARCHIVE"),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, "ARCHIVE_ACCESS"),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "DEEP_ARCHIVE_ACCESS"}, "DEEP_ARCHIVE_ACCESS"),
    ],
)
def test_archives(scripted: tuple[S3Store, Stubber], answer: dict[str, str], archive: str) -> None:
    """Those from which nobody reads before a copy was brought back, and no others."""
    info = head(scripted, **answer)
    assert (info.archive, info.storage_class, info.brought_back) == (archive, answer.get("StorageClass", ""), False)


def test_a_copy_that_was_brought_back(scripted: tuple[S3Store, Stubber]) -> None:
    """Can be read for a time; one that is on its way cannot."""
    glacier = {"StorageClass": "GLACIER"}
    back = 'ongoing-request="false", expiry-date="Fri, 23 Dec 2026 00:00:00 GMT"'
    assert head(scripted, **glacier, Restore=back).brought_back
    assert not head(scripted, **glacier, Restore='ongoing-request="true"').brought_back


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (
            'expiry-date="Fri, 23 Dec 2026 00:00:00 GMT", rule-id="tidy%20up"',
            "the bucket's rule 'tidy up' deletes it on Fri, 23 Dec 2026 00:00:00 GMT",
        ),
        ('rule-id="r"', "the bucket's rule 'r' deletes it"),
        ('expiry-date="soon"', "a rule of the bucket deletes it on soon"),
        ("?", "the store announces its deletion (?)"),
    ],
)
def test_an_announced_deletion(scripted: tuple[S3Store, Stubber], header: str, says: str) -> None:
    """With the rule and the date, whatever form the header has."""
    assert head(scripted, Expiration=header).deletion == says


def test_reading_from_an_archive(scripted: tuple[S3Store, Stubber]) -> None:
    """Is refused by the store; the error says what to do."""
    store, script = scripted
    script.add_client_error("get_object", "InvalidObjectState", http_status_code=403)
    with pytest.raises(Unsupported, match=r"archive class: have the store bring it back"):
        store.get("k")


def rule(**given: Any) -> dict[str, Any]:
    return {"ID": "tidy", "Status": "Enabled", "Expiration": {"Days": 30}, "Filter": {"Prefix": ""}, **given}


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        (rule(), ""),
        (rule(Filter={}), ""),
        (rule(Filter={"Prefix": "p"}), ""),
        (rule(Filter={"Prefix": "p/parts/"}), "parts/"),
        ({**rule(), "Filter": {}, "Prefix": "p/snapshots"}, "snapshots"),
        (rule(Filter={"And": {"Prefix": "p/parts/m", "ObjectSizeGreaterThan": 5}}), "parts/m"),
        (rule(Filter={"ObjectSizeGreaterThan": 5}), ""),
        (rule(Expiration={"Date": WHEN}), ""),
        (rule(Expiration={}, Transitions=[{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]), ""),
    ],
)
def test_rules_that_reach_the_store(given: dict[str, Any], prefix: str) -> None:
    """By prefix, by both forms of it, by size; their prefix is then that of the store's keys."""
    (found,) = lifecycle.rules({"Rules": [given]}, "p/")
    assert (found.name, found.prefix) == ("tidy", prefix)
    assert found.deletes == bool(given["Expiration"]) and found.archive == ("" if found.deletes else "DEEP_ARCHIVE")


@pytest.mark.parametrize(
    "given",
    [
        rule(Status="Disabled"),
        rule(Filter={"Prefix": "q/"}),
        rule(Filter={"Tag": {"Key": "a", "Value": "b"}}),
        rule(Filter={"And": {"Prefix": "p/", "Tags": [{"Key": "a", "Value": "b"}]}}),
        rule(Expiration={"ExpiredObjectDeleteMarker": True}),
        rule(Expiration={}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}),
        rule(Expiration={}, NoncurrentVersionExpiration={"NoncurrentDays": 1}),
        rule(Expiration={}, Transitions=[{"Days": 1, "StorageClass": "STANDARD_IA"}]),
    ],
)
def test_rules_that_do_not(given: dict[str, Any]) -> None:
    """Off, of another prefix, for tagged objects, or for what no snapshot needs."""
    assert list(lifecycle.rules({"Rules": [given]}, "p/")) == []


def test_rules_are_said_of_the_objects_they_reach() -> None:
    """One that deletes the parts of another machine is nobody's concern here."""
    rules = Rules((LifecycleRule("a", "parts/other/", True, ""), LifecycleRule("b", "parts/m", True, "GLACIER")))
    assert rules.deleting(["parts/m/1/00", "snapshots/m/1"]) == [
        "the bucket's rule 'b' deletes what begins with parts/m"
    ]
    assert "moves what begins with parts/m to GLACIER" in rules.archiving(["parts/m/1/00"])[0]
    assert rules.deleting(["snapshots/m/1"]) == [] and rules.archiving(["snapshots/m/1"]) == []


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchLifecycleConfiguration", "NotImplemented", "SlowDown"])
def test_a_bucket_that_does_not_tell(scripted: tuple[S3Store, Stubber], code: str) -> None:
    """No leave, no rules, no such request: nothing is known, and nothing stops for it."""
    store, script = scripted
    script.add_client_error("get_bucket_lifecycle_configuration", code)
    assert RetryingStore(store).lifecycle() == ()


def test_a_directory_has_no_rules(local_store: LocalStore) -> None:
    """And no archives."""
    local_store.put("k", b"")
    assert Rules.of(local_store).found == () == RetryingStore(local_store).lifecycle()
    info = local_store.head("k")
    assert (info.storage_class, info.archive, info.deletion) == ("", "", "")


def test_against_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage class and rules as a server gives them."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        made = {"endpoint": f"http://{host}:{port}", "region": "us-east-1", "access_key": "a", "secret_key": "s"}
        admin = boto3.client(
            "s3", endpoint_url=made["endpoint"], region_name="us-east-1", aws_access_key_id="a",
            aws_secret_access_key="s",
        )  # fmt: skip
        admin.create_bucket(Bucket=BUCKET)
        admin.put_object(Bucket=BUCKET, Key="p/cold", Body=b"x", StorageClass="DEEP_ARCHIVE")
        store = S3Store.connect(BUCKET, "p", **made)
        assert store.lifecycle() == () and store.head("cold").archive == "DEEP_ARCHIVE"
        archiving = rule(ID="cool", Expiration={"Days": 90}, Filter={"Prefix": "p/parts/"})
        archiving["Transitions"] = [{"Days": 30, "StorageClass": "GLACIER"}]
        other = rule(ID="other", Filter={"Prefix": "q/"})
        admin.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [archiving, other]})
        assert store.lifecycle() == (LifecycleRule("cool", "parts/", True, "GLACIER"),)
        store.close()
    finally:
        server.stop()
