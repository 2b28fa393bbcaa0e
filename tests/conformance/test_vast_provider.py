"""The vast.ai provider passes the suite, against a double of its API: tests/support/doubles/vast_server.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.provider_suite")

from poorwill.providers.base import Provider  # noqa: E402
from tests.conformance.provider_suite import ProviderSuite  # noqa: E402
from tests.support.doubles.clock import SleepingClock  # noqa: E402
from tests.support.doubles.vast_account import VastAccount  # noqa: E402
from tests.support.doubles.vast_server import VastServer  # noqa: E402


class TestVastProvider(ProviderSuite):
    """Machines take a few polls to run and a few to be gone."""

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        with VastServer() as server:
            server.behaviour.statuses = (None, None, "loading", "running")
            server.behaviour.polls_until_gone = 2
            yield VastAccount(server, SleepingClock()).provider()
