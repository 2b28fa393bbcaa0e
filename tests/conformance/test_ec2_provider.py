"""The provider suite on EC2, against moto's server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.conformance.provider_suite")

from poorwill.providers.base import Provider  # noqa: E402
from tests.conformance.provider_suite import ProviderSuite  # noqa: E402
from tests.support.ec2_server import Ec2Server  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[Ec2Server]:
    with Ec2Server() as server:
        yield server


@pytest.fixture(scope="module")
def connected(server: Ec2Server) -> Provider:
    return server.provider()


class TestEc2Provider(ProviderSuite):
    @pytest.fixture
    def provider(self, server: Ec2Server, connected: Provider) -> Iterator[Provider]:
        yield connected
        server.clear()
