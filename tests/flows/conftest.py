"""One real Prefect server for all flow tests, and for each test its own store, provider and machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.prefect_server import PrefectServer
from tests.flow_world import World

_numbers = itertools.count()


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Started once: it takes several seconds."""
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server, server.settings():
        yield server


@pytest.fixture
def world(prefect_server: PrefectServer, tmp_path: Path) -> World:
    """Blocks of a store, a provider and a machine that no other test has."""
    return World(prefect_server, tmp_path, f"m{next(_numbers)}")
