"""The bucket policy of the operator's guide: what it allows suffices, and nothing in it can be left out."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.server import ThreadedMotoServer

from poorwill.errors import NotFound, StoreRefused
from poorwill.store.s3.store import S3Store

GUIDE = Path(__file__).parents[2] / "docs" / "operating.md"
BUCKET, PREFIX = "my-bucket", "poorwill"


def documented() -> dict[str, Any]:
    """The policy as the guide prints it."""
    blocks = re.findall(r"```json\n(\{\s*\"Version\".*?)```", GUIDE.read_text(), re.DOTALL)
    found: dict[str, Any] = json.loads(blocks[0])
    return found


class Account:
    """A user of moto's, which can evaluate the policies of users, but not those of presigned URLs."""

    def __init__(self, endpoint: str) -> None:
        access = {"region_name": "us-east-1", "aws_access_key_id": "root", "aws_secret_access_key": "root"}
        self._iam = boto3.client("iam", endpoint_url=endpoint, **access)
        boto3.client("s3", endpoint_url=endpoint, **access).create_bucket(Bucket=BUCKET)
        self._iam.create_user(UserName="poorwill")
        keys = self._iam.create_access_key(UserName="poorwill")["AccessKey"]
        self.store = S3Store.connect(
            BUCKET, PREFIX, endpoint=endpoint, region="us-east-1",
            access_key=keys["AccessKeyId"], secret_key=keys["SecretAccessKey"], attempts_max=1,
        )  # fmt: skip

    @contextmanager
    def under(self, policy: dict[str, Any]) -> Iterator[S3Store]:
        self._iam.put_user_policy(UserName="poorwill", PolicyName="store", PolicyDocument=json.dumps(policy))
        before = settings.INITIAL_NO_AUTH_ACTION_COUNT
        settings.INITIAL_NO_AUTH_ACTION_COUNT, ActionAuthenticatorMixin.request_count = 0, 0
        try:
            yield self.store
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = before


@pytest.fixture
def account() -> Iterator[Account]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Account(f"http://{host}:{port}")
    finally:
        server.stop()


def _missing(store: S3Store) -> None:
    with pytest.raises(NotFound):
        store.head("not/there")


USES: dict[str, Callable[[S3Store], object]] = {
    "s3:PutObject": lambda store: store.put("a/1", b"1"),
    "s3:GetObject": lambda store: store.get("a/0"),
    "s3:DeleteObject": lambda store: store.delete("a/1"),
    "s3:AbortMultipartUpload": lambda store: store.abort_upload("a/2", store.create_upload("a/2")),
    "s3:ListMultipartUploadParts": lambda store: store.list_pieces("a/3", store.create_upload("a/3")),
    "s3:ListBucket": lambda store: list(store.list("a/")),
    "s3:ListBucketMultipartUploads": lambda store: list(store.list_uploads("a/")),
}


def test_the_policy_of_the_guide(account: Account) -> None:
    """It allows everything that a store does, and nothing outside of its prefix; without any one of its actions a store
    is refused something."""
    policy = documented()
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed == USES.keys()
    with account.under(policy) as store:
        store.put("a/0", b"0")
        for use in (*USES.values(), _missing):
            use(store)
    for action, use in USES.items():
        less = copy.deepcopy(policy)
        for statement in less["Statement"]:
            statement["Action"] = [kept for kept in statement["Action"] if kept != action]
        with account.under(less) as store, pytest.raises(StoreRefused):
            use(store)
    elsewhere = json.loads(json.dumps(policy).replace(f"{BUCKET}/{PREFIX}/*", f"{BUCKET}/another/*"))
    with account.under(elsewhere) as store, pytest.raises(StoreRefused):
        store.put("a/1", b"1")
