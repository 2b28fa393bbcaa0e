"""open_store: addresses of stores, and errors for others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.servers.s3_server import S3Server
from poorwill.errors import StoreRefused, UsageError
from poorwill.store.address import open_store


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without any AWS setting, and without the machine's metadata service."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def test_file_addresses(tmp_path: Path) -> None:
    """Percent-encoded or not, with odd letters; the url given back opens the same store."""
    for name in ("plain", "with space", "ä%#?", "ends.with.dots..."):
        store = open_store((tmp_path / name).as_uri())
        store.put("k", name.encode())
        assert (tmp_path / name / "k").read_text() == name
        assert open_store(store.url).get("k") == name.encode()
    assert open_store(f"file://{tmp_path}/a?b#c").url == (tmp_path / "a?b#c").as_uri()
    assert open_store(f"file://localhost{tmp_path}/plain").get("k") == b"plain"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/just/a/path",
        "relative",
        "file://",
        "file:///",
        "file://relative/path",
        "file:///nul%00",
        "s3://",
        "s3:///prefix",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket:9000/prefix",
        "s3://bucket/prefix?endpoint=x",
        "https://bucket.example.com/",
        "http://[::1",
        "\ud800",
    ],
    ids=ascii,
)
def test_malformed_addresses_are_usage_errors(url: str, no_aws: pytest.MonkeyPatch) -> None:
    """In one line, before any request."""
    no_aws.setenv("AWS_ACCESS_KEY_ID", "key")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_a_secret_in_an_address_is_not_repeated(no_aws: pytest.MonkeyPatch) -> None:
    """Users write credentials into addresses and endpoints; the error must not copy them into a log."""
    for url in (
        "s3://hunter2@bucket/x",
        "s3://KEY:hunter2@bucket/x",
        "https://KEY:hunter2@host/b",
        "s3://bucket/x?secret=hunter2",
    ):
        with pytest.raises(UsageError) as caught:
            open_store(url)
        assert "hunter2" not in str(caught.value)
    no_aws.setenv("AWS_ACCESS_KEY_ID", "key")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    no_aws.setenv("AWS_ENDPOINT_URL", "https://KEY:hunter2@host:9000")
    with pytest.raises(UsageError) as caught:
        open_store("s3://bucket/x")
    assert "hunter2" not in str(caught.value)


def test_s3_from_the_environment(s3_server: S3Server, no_aws: pytest.MonkeyPatch) -> None:
    """Endpoint and credentials come from AWS variables; two prefixes of a bucket are separate."""
    for name, value in s3_server.env().items():
        no_aws.setenv(name, value)
    store = open_store(s3_server.url("addresses/one"))
    store.put("k", b"x")
    assert store.url == f"s3://{s3_server.bucket}/addresses/one"
    assert s3_server.endpoint in store.describe()
    assert s3_server.secret_key not in store.describe()
    assert [info.key for info in open_store(s3_server.url("addresses/one/")).list("")] == ["k"]
    assert list(open_store(s3_server.url("addresses/on")).list("")) == []
    assert [info.key for info in open_store(s3_server.url("addresses")).list("")] == ["one/k"]


def test_s3_from_a_profile(s3_server: S3Server, no_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """AWS_PROFILE chooses endpoint, region and credentials from the usual files."""
    (tmp_path / "aws-config").write_text(
        f"[profile cold]\nregion = auto\nendpoint_url = {s3_server.endpoint}\n"
        f"aws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    no_aws.setenv("AWS_PROFILE", "cold")
    store = open_store(s3_server.url("profiles"))
    store.put("k", b"x")
    assert store.get("k") == b"x"


def test_no_credentials(no_aws: pytest.MonkeyPatch) -> None:
    """StoreRefused in one line that names the bucket and what to set."""
    with pytest.raises(StoreRefused, match=r"s3://bucket.*AWS_ACCESS_KEY_ID") as caught:
        open_store("s3://bucket/prefix")
    assert "\n" not in str(caught.value)
    no_aws.setenv("AWS_ACCESS_KEY_ID", "only-half")
    with pytest.raises(StoreRefused, match="AWS_SECRET_ACCESS_KEY"):
        open_store("s3://bucket/prefix")
    no_aws.delenv("AWS_ACCESS_KEY_ID")
    no_aws.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(StoreRefused, match="ProfileNotFound"):
        open_store("s3://bucket/prefix")


def test_a_bad_endpoint(no_aws: pytest.MonkeyPatch) -> None:
    """A malformed endpoint is refused when the store is opened."""
    no_aws.setenv("AWS_ACCESS_KEY_ID", "key")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    no_aws.setenv("AWS_ENDPOINT_URL", "no scheme:9000")
    with pytest.raises(StoreRefused, match="AWS_ENDPOINT_URL") as caught:
        open_store("s3://bucket/prefix")
    assert "\n" not in str(caught.value)


def test_file_stores_do_not_need_boto3(tmp_path: Path) -> None:
    """A file:// store does not import it; s3:// without it is a UsageError that says what to install."""
    code = """
import sys
sys.modules["boto3"] = None  # as if it were not installed
from poorwill.store.address import open_store
from poorwill.errors import UsageError
open_store(sys.argv[1]).put("k", b"x")
assert not [name for name in sys.modules if name.startswith(("botocore", "s3transfer", "boto3."))]
try:
    open_store("s3://bucket/prefix")
except UsageError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, (tmp_path / "s").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert ran.returncode == 0, ran.stderr
    assert "pip install 'poorwill[s3]'" in ran.stdout
