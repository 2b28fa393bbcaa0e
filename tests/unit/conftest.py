"""Property tests are not timed: a loaded machine must not fail them. And the market of rented machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from poorwill.providers.vast.provider import VastProvider
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.vast_account import VastAccount
from tests.support.doubles.vast_server import VastServer

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def market() -> Iterator[VastAccount]:
    """An account at the double of vast.ai."""
    with VastServer() as server:
        yield VastAccount(server, SleepingClock())


@pytest.fixture
def vast(market: VastAccount) -> VastProvider:
    """Its provider."""
    return market.provider()
