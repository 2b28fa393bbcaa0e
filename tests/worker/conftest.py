"""Pools on the one Prefect server: `rig` has no worker yet, `lane` shares one worker among all tests that take it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.servers.prefect_server import PrefectServer
from tests.worker.rig import Rig

_numbers = itertools.count()


@pytest.fixture
def rig(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Rig]:
    """A pool without a worker."""
    built = Rig(prefect_server, tmp_path, f"gpu-{next(_numbers)}")
    yield built
    built.close()


@pytest.fixture(scope="session")
def shared_rig(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    built = Rig(prefect_server, tmp_path_factory.mktemp("shared"), f"gpu-{next(_numbers)}")
    built.worker()
    yield built
    built.close()


@pytest.fixture
def lane(shared_rig: Rig, tmp_path: Path) -> Rig:
    """A worker with one CPU lane and one control lane, which tests share; what is told is this test's."""
    shared_rig.told = tmp_path / "told"
    return shared_rig
