"""Real parts for all tests: an S3 server that checks signatures, and stores on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.s3server import S3Server
from poorwill.store.local import LocalStore
from poorwill.store.s3 import S3Store
from tests.s3_connection import connect

_prefixes = (f"test-{number:04}" for number in itertools.count())


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Engines of a test remember nothing of another one's, and nothing in the home of whoever runs it."""
    monkeypatch.setenv("POORWILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; a test that kills it starts its own."""
    with S3Server(tmp_path_factory.mktemp("s3") / "objects") as server:
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server) -> Iterator[S3Store]:
    """A store under a prefix that no other test has."""
    store = connect(s3_server, next(_prefixes))
    yield store
    store.close()


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "local-store")
