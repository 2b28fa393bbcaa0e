"""The settings of the local stack: which are read, and the line that a wrong one gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.stack.settings import PARTS, StackSettings
from poorwill.errors import UsageError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("POORWILL_PASSWORD", "POORWILL_STORE", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("POORWILL_STACK_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"POORWILL_API_PORT": "x"}, "POORWILL_API_PORT is 'x': must be a valid integer"),
        ({"POORWILL_S3_PORT": "70000"}, "POORWILL_S3_PORT is '70000': must be less than or equal to 65535"),
        ({"POORWILL_DRAIN_TIMEOUT_S": "-1"}, "POORWILL_DRAIN_TIMEOUT_S is '-1': must be greater than or equal to 0"),
        ({"POORWILL_BIND": "here"}, "POORWILL_BIND is 'here': must be an address of this host, like 127.0.0.1"),
        ({"POORWILL_BIND": "0.0.0.0"}, "set POORWILL_PASSWORD too"),
        ({"PREFECT_SERVER_API_AUTH_STRING": "secret"}, "PREFECT_SERVER_API_AUTH_STRING is not 'user:password'"),
        ({"POORWILL_API_PORT": "4200"}, "the same port: .*POORWILL_PREFECT_PORT=4200, .*POORWILL_API_PORT=4200"),
    ],
)
def test_a_wrong_setting_is_one_line(variables: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable, and a secret is not repeated."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=why) as caught:
        StackSettings.read().check()
    assert "\n" not in caught.value.message and "secret" not in caught.value.message


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server and the gateway listen on POORWILL_BIND; this host reaches them by loopback."""
    monkeypatch.setenv("POORWILL_BIND", "::")
    monkeypatch.setenv("POORWILL_PASSWORD", "a-password")
    monkeypatch.setenv("POORWILL_API_PORT", "")
    settings = StackSettings.read()
    settings.check()
    assert settings.auth == "admin:a-password" and settings.own_store and "a-password" not in repr(settings)
    assert [settings.host(part) for part in PARTS] == ["127.0.0.1", "::", "127.0.0.1", "::"]
    assert settings.address("api") == "[::1]:8000" and settings.address("worker") == "127.0.0.1:8082"
