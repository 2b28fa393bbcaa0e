"""Machines of vast.ai from their creation to their end: waiting, reaching, listing and destroying them."""

from __future__ import annotations

import json

import pytest

from poorwill.errors import (
    DeadlineExceeded,
    NotFound,
    PermanentError,
    ProviderRefused,
    ProviderUnavailable,
)
from poorwill.providers.base import SshEndpoint, Wish
from poorwill.providers.vast.answers import address_of
from poorwill.providers.vast.api import ATTEMPTS_MAX
from poorwill.providers.vast.provider import VastProvider
from tests.support.doubles.vast_account import DELETE, GET, LIST, PUBLIC_KEY, VastAccount


def test_waiting_ends_when_it_runs_and_has_an_address(market: VastAccount, vast: VastProvider) -> None:
    """It is polled at an interval, through the statuses null and loading."""
    market.server.behaviour.statuses = (None, None, "loading", "created", "running")
    machine = vast.create("m", Wish())
    assert not machine.running
    with pytest.raises(ProviderUnavailable, match="no SSH address yet"):
        market.server.behaviour.proxy = ("", 0)
        vast.endpoint(machine.id)
    market.clock.slept.clear()
    assert vast.wait(machine.id, 600).running and set(market.clock.slept) == {5.0}


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (("loading", "exited"), ""),
        (("loading", "offline"), ""),
        (("loading",), "Error response from daemon: manifest for x/y:1 not found"),
        (("created",), "OCI runtime create failed: no such device"),
        (("loading",), "docker_build() error writing dockerfile"),
    ],
)
def test_a_machine_that_cannot_start_is_reported(
    market: VastAccount, vast: VastProvider, statuses: tuple[str, ...], said: str
) -> None:
    """At once, with the host's reason, and that it may still bill."""
    market.server.behaviour.statuses, market.server.behaviour.status_msg = statuses, said
    machine = vast.create("m", Wish())
    with pytest.raises(PermanentError, match=f"instance {machine.id} may still bill") as raised:
        vast.wait(machine.id, 600)
    assert said in raised.value.message and raised.value.facts["instance"] == machine.id


def test_a_machine_that_takes_too_long_is_reported(market: VastAccount, vast: VastProvider) -> None:
    """DeadlineExceeded with the last status, near the deadline, and that it may still bill."""
    market.server.behaviour.statuses = ("loading",)
    machine = vast.create("m", Wish())
    with pytest.raises(DeadlineExceeded, match=rf"60 s: loading; instance {machine.id} may still bill"):
        vast.wait(machine.id, 60)
    assert 55 <= market.clock.now() <= 60


def test_waiting_survives_an_outage(market: VastAccount, vast: VastProvider) -> None:
    """Longer than one request is tried for, shorter than the deadline."""
    machine = vast.create("m", Wish())
    market.fail(GET, 503, times=3 * ATTEMPTS_MAX)
    assert vast.wait(machine.id, 600).running


def test_keys_that_were_refused_are_attached_when_it_runs(market: VastAccount, vast: VastProvider) -> None:
    """Refused while the machine is built, attached when it runs; attaching again changes nothing."""
    market.server.behaviour.keys_taken_after = 1
    machine = vast.create("m", Wish())
    assert market.server.rented[int(machine.id)].public_keys == []
    for _ in range(2):
        vast.wait(machine.id, 60)
        assert market.server.rented[int(machine.id)].public_keys == [PUBLIC_KEY]


def test_a_key_that_is_always_refused_is_an_error(market: VastAccount, vast: VastProvider) -> None:
    """Nobody could log in to that machine."""
    market.server.behaviour.keys_taken_after = 99
    machine = vast.create("m", Wish())
    with pytest.raises(ProviderRefused, match="may still bill"):
        vast.wait(machine.id, 60)


def test_a_machine_that_is_missing_several_times_in_a_row_has_vanished(market: VastAccount, vast: VastProvider) -> None:
    """After one miss it may only be unknown to that server yet."""
    machine = vast.create("m", Wish())
    market.fail(GET, 404, times=2)
    market.fail(LIST, 200, '{"instances": []}', times=2)
    assert vast.wait(machine.id, 60).running
    del market.server.rented[int(machine.id)]
    with pytest.raises(NotFound):
        vast.wait(machine.id, 600)


@pytest.mark.parametrize("shape", ["map", "list", "null"])
def test_the_direct_port_is_preferred_to_the_proxy(market: VastAccount, vast: VastProvider, shape: str) -> None:
    """`ports` as a map holds the machine's own port; as a list or null it does not, and the proxy is used."""
    market.server.behaviour.ports, market.server.behaviour.proxy = shape, ("ssh4.vast.ai", 10022)
    machine = vast.wait(vast.create("m", Wish()).id, 60)
    direct = SshEndpoint("203.0.113.2", 20001, "root")
    expected = direct if shape == "map" else SshEndpoint("ssh4.vast.ai", 10022, "root")
    assert vast.endpoint(machine.id) == expected


def test_a_jupyter_machine_has_ssh_on_the_next_port() -> None:
    """For machines that were rented by hand; vast.ai's own client does the same."""
    row = {"ssh_host": "ssh4.vast.ai", "ssh_port": "10022", "image_runtype": "jupyter_direc ssh_direc"}
    assert address_of(row) == SshEndpoint("ssh4.vast.ai", 10023, "root")
    assert address_of({**row, "ssh_port": 65535}) is None


def test_listings_page_through_everything(market: VastAccount, vast: VastProvider) -> None:
    """More machines than a page holds: all are found, by label and by prefix, with a pause between pages."""
    quick = market.provider(public_keys=[])
    for number in range(60):
        quick.create(f"many-{number % 2}", Wish())
    assert len(vast.list_by_prefix("many-")) == 60
    assert len(vast.list_by_label("many-1")) == 30 and vast.list_by_label("many-") == []
    assert market.clock.slept == [1.0, 1.0, 1.0]


def test_a_listing_without_end_is_an_error(market: VastAccount, vast: VastProvider) -> None:
    """Not half a list, if there is always another token."""
    market.fail(LIST, 200, '{"instances": [], "next_token": "x"}', times=10**6)
    with pytest.raises(ProviderUnavailable, match="that cannot be"):
        vast.list_by_prefix("")


@pytest.mark.parametrize("body", ["{}", '{"instances": null}', '{"instances": [3]}', '{"instances": [{"id": "7"}]}'])
def test_a_listing_that_may_hide_a_machine_is_an_error(market: VastAccount, vast: VastProvider, body: str) -> None:
    """A malformed answer never gives an empty list, and no machine counts as gone because of it."""
    for call in (lambda: vast.list_by_prefix(""), lambda: vast.exists("7")):
        market.fail(LIST, 200, body)
        with pytest.raises(ProviderUnavailable):
            call()


def test_a_filter_that_is_ignored_adopts_no_other_machine(market: VastAccount, vast: VastProvider) -> None:
    """Of a listing with other labels only the requested one counts."""
    rows = [{"id": 7, "label": "mine-2"}, {"id": 8, "label": "mine"}, {"id": 9, "label": None}]
    market.fail(LIST, 200, json.dumps({"instances": rows}))
    assert [found.id for found in vast.list_by_label("mine")] == ["8"]


def test_a_machine_is_gone_only_if_two_endpoints_agree(market: VastAccount, vast: VastProvider) -> None:
    """A broken server may answer 404 or null: while the listing shows the machine, it exists."""
    machine = vast.create("m", Wish())
    for status, body in ((404, "not found"), (200, '{"instances": null}')):
        market.fail(GET, status, body)
        assert vast.exists(machine.id)
    market.fail(GET, 404)
    market.fail(LIST, 404)
    with pytest.raises(ProviderRefused):
        vast.exists(machine.id)


def test_an_answer_about_another_machine_is_an_error(market: VastAccount, vast: VastProvider) -> None:
    """So is one without a machine."""
    for body in ('{"instances": {"id": 6, "actual_status": "running"}}', '{"instances": 3}', '{"instances": {}}'):
        market.fail(GET, 200, body)
        with pytest.raises(ProviderUnavailable):
            vast.get("5")


def test_destroy_asks_until_it_is_gone(market: VastAccount, vast: VastProvider) -> None:
    """After some polls; it was destroyed once."""
    market.server.behaviour.polls_until_gone = 4
    machine = vast.create("m", Wish())
    vast.destroy(machine.id, 60)
    assert not market.server.rented and not vast.exists(machine.id) and market.clock.now() >= 15


def test_a_machine_that_stays_is_named(market: VastAccount, vast: VastProvider) -> None:
    """DeadlineExceeded, near the deadline, with what may still bill; a later call ends it."""
    market.server.behaviour.polls_until_gone = 12
    machine = vast.create("m", Wish())
    with pytest.raises(DeadlineExceeded, match=f"still listed; instance {machine.id} may still bill"):
        vast.destroy(machine.id, 30)
    assert market.clock.now() <= 30 and vast.exists(machine.id)
    vast.destroy(machine.id, 60)
    assert not vast.exists(machine.id)


def test_destroying_through_an_outage(market: VastAccount, vast: VastProvider) -> None:
    """The answer to DELETE is lost, then nothing answers for a while: asked again until it is gone."""
    machine = vast.create("m", Wish())
    market.fail(DELETE, 500, times=ATTEMPTS_MAX)
    market.fail(GET, 502, times=ATTEMPTS_MAX)
    vast.destroy(machine.id, 300)
    assert not market.server.rented
    market.fail(DELETE, 500, times=99)
    with pytest.raises(DeadlineExceeded, match="may still bill"):
        vast.destroy(machine.id, 60)
