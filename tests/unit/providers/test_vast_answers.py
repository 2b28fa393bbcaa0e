"""Answers of vast.ai: refusals, outages, and malformed ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poorwill.errors import PoorwillError, ProviderRefused, ProviderUnavailable, UsageError
from poorwill.providers.base import Wish
from poorwill.providers.vast.answers import address_of, instance_of
from poorwill.providers.vast.api import ANSWER_BYTES_MAX, ATTEMPTS_MAX, RETRY_AFTER_MAX_S
from poorwill.providers.vast.provider import VastProvider
from tests.support.doubles.clock import SleepingClock
from tests.support.doubles.vast_account import ATTACH, CREATE, DELETE, GET, LIST, SEARCH, VastAccount
from tests.support.doubles.vast_server import VastServer


def test_no_credit_says_where_to_add_some(market: VastAccount, vast: VastProvider) -> None:
    """ProviderRefused, once."""
    market.server.behaviour.no_credit = True
    with pytest.raises(ProviderRefused, match=r"insufficient_credit.*cloud\.vast\.ai/billing"):
        vast.create("m", Wish())
    assert market.server.count(CREATE) == 1


def test_a_wrong_key_is_refused_by_every_call_and_never_means_gone(market: VastAccount) -> None:
    """Also where vast.ai answers 404 to it: a machine of an account we cannot see still bills."""
    wrong = market.provider(api_key="wrong-key-0123456789")
    machine = market.provider().create("m", Wish())
    calls: list[Callable[[], object]] = [
        lambda: wrong.offers(Wish()),
        lambda: wrong.create("m", Wish()),
        lambda: wrong.get(machine.id),
        lambda: wrong.exists(machine.id),
        lambda: wrong.list_by_label("m"),
        lambda: wrong.list_by_prefix(""),
        lambda: wrong.endpoint(machine.id),
        lambda: wrong.wait(machine.id, 10),
        lambda: wrong.destroy(machine.id, 10),
    ]
    for call in calls:
        with pytest.raises(ProviderRefused, match="manage-keys") as raised:
            call()
        assert "wrong-key" not in str(raised.value)
    with pytest.raises(ProviderRefused, match=f"instance {machine.id} may still bill"):
        wrong.destroy(machine.id, 10)


def test_a_key_that_is_refused_by_404_is_not_a_missing_machine(market: VastAccount, vast: VastProvider) -> None:
    """404 with 'Invalid user key' about an instance: refused, not gone."""
    machine = vast.create("m", Wish())
    market.fail(GET, 404, '{"error": "not_found", "msg": "Invalid user key"}', times=9)
    for call in (vast.exists, vast.get, lambda found: vast.destroy(found, 10)):
        with pytest.raises(ProviderRefused):
            call(machine.id)


def test_a_missing_permission_is_refused(market: VastAccount, vast: VastProvider) -> None:
    """403: the key may not do that."""
    market.fail(SEARCH, 403, '{"success": false, "error": "forbidden", "msg": "no permission misc"}')
    with pytest.raises(ProviderRefused, match=r"403 forbidden: no permission misc: the API key"):
        vast.offers(Wish())


@pytest.mark.parametrize("echo", ["{}", "Bearer {}", "a{}b" + "x" * 5000])
def test_the_key_is_in_no_message_and_no_repr(market: VastAccount, vast: VastProvider, echo: str) -> None:
    """Not even when a server repeats it."""
    key = market.server.api_key
    market.fail(SEARCH, 400, json.dumps({"error": echo.format(key), "msg": echo.format(key)}))
    with pytest.raises(ProviderRefused) as raised:
        vast.offers(Wish())
    told = f"{raised.value!r} {raised.value.facts} {vast!r} {vast.describe()} {vast._api!r}"
    assert key not in told and len(raised.value.message) < 1000


def test_redirects_are_not_followed(market: VastAccount, vast: VastProvider) -> None:
    """The key would travel to wherever an answer points."""
    with VastServer() as elsewhere:
        market.fail(GET, 302, Location=f"{elsewhere.url}/api/v0/instances/5/")
        market.fail(SEARCH, 307, Location=f"{elsewhere.url}/api/v0/bundles/")
        for call in (lambda: vast.get("5"), lambda: vast.offers(Wish())):
            with pytest.raises(ProviderRefused, match="redirects"):
                call()
        assert not elsewhere.requests


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": ""},
        {"api_key": "short"},
        {"api_key": "with\r\nInjected: header"},
        {"base_url": "http://console.vast.ai"},
        {"base_url": "https://user:word@console.vast.ai"},
        {"base_url": "ftp://127.0.0.1"},
        {"base_url": "https://[::1"},
        {"public_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]},
        {"public_keys": ["ssh-ed25519 AAAA\nssh-ed25519 BBBB"]},
    ],
)
def test_impossible_settings_are_usage_errors(market: VastAccount, given: dict[str, Any]) -> None:
    """A key that would break a header, an address without TLS, a private key in place of a public one."""
    with pytest.raises(UsageError) as raised:
        market.provider(**given)
    assert "Injected" not in str(raised.value) and "OPENSSH" not in str(raised.value)


def test_two_accounts_have_two_names(market: VastAccount) -> None:
    """An intent of one account is not closed because another account has no such machine."""
    assert market.provider().describe() != market.provider(api_key="another-account-1").describe()


@pytest.mark.parametrize(("status", "body"), [(429, "API requests too frequent"), (429, '{"error": "x"}'), (502, "")])
@pytest.mark.parametrize("to", [SEARCH, GET, LIST, DELETE, ATTACH])
def test_temporary_errors_are_survived(
    market: VastAccount, vast: VastProvider, to: str, status: int, body: str
) -> None:
    """429, as plain text or JSON, and server errors: every call but create succeeds in the end."""
    market.fail(to, status, body, times=ATTEMPTS_MAX - 1)
    machine = vast.wait(vast.create("m", Wish()).id, 60)
    assert vast.list_by_label("m") == [machine] and len(market.server.created) == 1
    vast.destroy(machine.id, 60)
    assert not vast.exists(machine.id) and not market.server.rented


def test_lasting_errors_are_reported(market: VastAccount, vast: VastProvider) -> None:
    """After a bounded number of attempts, with growing pauses."""
    market.fail(SEARCH, 500, times=99)
    with pytest.raises(ProviderUnavailable, match=f"it answered 500, after {ATTEMPTS_MAX} tries"):
        vast.offers(Wish())
    slept = market.clock.slept
    assert len(slept) == ATTEMPTS_MAX - 1 and slept[0] < 2 and slept[-1] > slept[0] and sum(slept) < 60


@pytest.mark.parametrize(
    ("said", "least", "most"), [("7", 7, 15), ("99999999", 60, 60), ("soon", 0.5, 1), ("-1", 0.5, 1)]
)
def test_retry_after_is_honoured_up_to_a_bound(
    market: VastAccount, vast: VastProvider, said: str, least: float, most: float
) -> None:
    """Only if it is a reasonable number of seconds."""
    market.fail(SEARCH, 429, Retry_After=said)
    assert vast.offers(Wish())
    assert least <= market.clock.slept[0] <= most and most <= RETRY_AFTER_MAX_S


def test_a_server_that_is_down_is_reported(market: VastAccount) -> None:
    """A closed port: ProviderUnavailable, and create says so too without a second request."""
    vast = market.provider()
    market.server.close()
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        vast.list_by_label("m")


@pytest.mark.parametrize("body", [b"x" * (ANSWER_BYTES_MAX + 1), b"[" * 100_000, b"\xff\xfe", b"[]", b""])
def test_an_answer_that_is_not_a_json_object_is_an_outage(market: VastAccount, vast: VastProvider, body: bytes) -> None:
    """Too long, too deep, not text, not an object: tried again, then reported."""
    market.fail(LIST, 200, body, times=ATTEMPTS_MAX)
    with pytest.raises(ProviderUnavailable, match="more than" if len(body) > ANSWER_BYTES_MAX else "not its JSON"):
        vast.list_by_label("m")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("22/tcp"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ports_22 = st.fixed_dictionaries({"22/tcp": json_values | st.lists(st.fixed_dictionaries({"HostPort": json_values}))})


@settings(max_examples=60)
@given(
    ports=json_values | ports_22,
    host=st.sampled_from(["1.2.3.4", "1.2.3.4\n", "-oProxyCommand=x", "a b", "", None]),
    proxy=json_values,
    port=json_values,
)
def test_hostile_addresses_are_none_or_safe(ports: Any, host: Any, proxy: Any, port: Any) -> None:
    """Whatever `ports`, hosts and numbers hold: no exception, and no host that ssh would take for an option."""
    found = address_of({"ports": ports, "public_ipaddr": host, "ssh_host": proxy, "ssh_port": port})
    assert found is None or (0 < found.port < 65536 and found.host[0] not in "-" and not found.host[-1].isspace())


@settings(max_examples=40)
@example(row={"dph_total": math.inf, "start_date": -1, "label": 3})
@given(
    row=st.dictionaries(st.sampled_from(["label", "actual_status", "start_date", "dph_total", "ports"]), json_values)
)
def test_hostile_descriptions_are_an_instance(row: dict[str, Any]) -> None:
    """An instance with an id is never left out, whatever its other fields are."""
    found = instance_of({**row, "id": 7})
    assert found.id == "7" and 0 <= found.price_per_hour < math.inf and len(found.created_at) == 20


@pytest.fixture(scope="module")
def hostile() -> Iterator[VastAccount]:
    """One server for all examples of the property below."""
    with VastServer() as server:
        yield VastAccount(server, SleepingClock())


@settings(max_examples=40)
@given(
    status=st.sampled_from([200, 200, 200, 201, 204, 301, 400, 401, 404, 410, 418, 429, 500]),
    body=json_values.map(json.dumps)
    | st.binary(max_size=40)
    | st.fixed_dictionaries(
        {"instances": json_values, "offers": json_values, "next_token": st.sampled_from([None, "", 0])}
    ).map(json.dumps)
    | st.fixed_dictionaries({"success": json_values, "error": json_values, "msg": json_values}).map(json.dumps),
)
def test_hostile_answers_raise_only_our_errors(hostile: VastAccount, status: int, body: str | bytes) -> None:
    """Whatever is answered, every call returns or raises a PoorwillError without the key."""
    vast = hostile.provider()
    hostile.server.faults[:] = []
    hostile.fail("", status, b"" if status == 204 else body, times=10**6)
    calls: list[Callable[[], object]] = [
        lambda: vast.offers(Wish()),
        lambda: vast.create("m", Wish()),
        lambda: vast.get("5"),
        lambda: vast.list_by_prefix(""),
        lambda: vast.endpoint("5"),
        lambda: vast.wait("5", 6),
        lambda: vast.destroy("5", 6),
    ]
    for call in calls:
        try:
            call()
        except PoorwillError as error:
            assert hostile.server.api_key not in f"{error!r}{error.facts}"
