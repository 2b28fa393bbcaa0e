"""Every store passes the suite."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

pytest.register_assert_rewrite("tests.conformance.store_suite")

from poorwill.retry import Backoff  # noqa: E402
from poorwill.store.base import Store  # noqa: E402
from poorwill.store.local import LocalStore  # noqa: E402
from poorwill.store.retrying import RetryingStore  # noqa: E402
from poorwill.store.s3.client import s3_client  # noqa: E402
from poorwill.store.s3.store import S3Store  # noqa: E402
from tests.conformance.store_suite import StoreSuite  # noqa: E402


class TestLocalStore(StoreSuite):
    @pytest.fixture
    def store(self, local_store: LocalStore) -> Store:
        return local_store


class TestS3Store(StoreSuite):
    @pytest.fixture
    def store(self, s3_store: S3Store) -> Store:
        return s3_store


class TestConditionalS3Store:
    """On a server that heeds If-None-Match, which the other one ignores. It crashes where an upload was ended."""

    @pytest.fixture
    def store(self) -> Iterator[S3Store]:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        client = s3_client(
            "poorwill",
            endpoint=f"http://{host}:{port}",
            region="us-east-1",
            access_key="a",
            secret_key="s",
            attempts_max=1,
        )
        client.create_bucket(Bucket="poorwill")
        store = S3Store(client, "poorwill", secrets.token_hex(4))
        yield store
        store.close()
        server.stop()

    test_put_new_writes_once = StoreSuite.test_put_new_writes_once
    test_put_fenced_writes_and_replaces = StoreSuite.test_put_fenced_writes_and_replaces
    test_a_check_that_raises_writes_nothing = StoreSuite.test_a_check_that_raises_writes_nothing

    def test_one_that_ends_no_uploads_is_seen(self, store: S3Store) -> None:
        """An object that appears behind the last look stays, by the server's condition alone."""
        assert store.put_new("k", b"late", lambda: store.put("k", b"early")) is False
        assert store.get("k") == b"early"
        assert list(store.list_uploads("")) == []


class TestRetryingStore(StoreSuite):
    @pytest.fixture
    def store(self, local_store: LocalStore) -> Store:
        return RetryingStore(local_store)


class TestRetryingS3Store(StoreSuite):
    @pytest.fixture
    def store(self, s3_store: S3Store) -> Store:
        return RetryingStore(s3_store, Backoff(first_s=0.01, max_s=0.5, attempts_max=20))
