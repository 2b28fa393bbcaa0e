"""Every store passes the suite."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.conformance.store_suite")

from poorwill.store.base import Store  # noqa: E402
from poorwill.store.local import LocalStore  # noqa: E402
from poorwill.store.retrying import RetryingStore  # noqa: E402
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


class TestRetryingStore(StoreSuite):
    @pytest.fixture
    def store(self, local_store: LocalStore) -> Store:
        return RetryingStore(local_store)
