"""For each flow test its own store, provider and machine on the one Prefect server."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from deployments.servers.prefect_server import PrefectServer
from tests.support.flow_world import World

_numbers = itertools.count()


@pytest.fixture
def world(prefect_server: PrefectServer, tmp_path: Path) -> World:
    """Blocks of a store, a provider and a machine that no other test has."""
    return World(prefect_server, tmp_path, f"m{next(_numbers)}")
