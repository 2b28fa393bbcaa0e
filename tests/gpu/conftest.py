"""What tests on a GPU need of tests/conftest.py, which needs packages that a GPU machine has not: `make test-gpu` goes
without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from poorwill.store.local import LocalStore


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Engines of a test remember nothing of another one's, and nothing in the home of whoever runs it."""
    monkeypatch.setenv("POORWILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "local-store")
