"""How a wish finds offers of vast.ai, and how the cheapest of them is rented, once."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from poorwill.errors import (
    ProviderUnavailable,
    Refused,
    UsageError,
)
from poorwill.providers.base import OFFERS_MAX, Wish
from poorwill.providers.vast.offers import spellings
from poorwill.providers.vast.provider import OFFERS_TRIED_MAX, VastProvider
from tests.support.doubles.vast_account import ATTACH, CREATE, GET, PUBLIC_KEY, SEARCH, VastAccount
from tests.support.doubles.vast_market import offer


@pytest.mark.parametrize(
    ("wish", "ids"),
    [
        (Wish(gpu="RTX_4090"), ["1002", "1001", "1003"]),
        (Wish(gpu="rtx 4090"), ["1002", "1001", "1003"]),
        (Wish(gpu="RTX4090"), ["1002", "1001", "1003"]),
        (Wish(gpu="rtx_3060_ti"), ["1004"]),
        (Wish(gpu="h100 sxm"), ["1005"]),
        (Wish(gpu="RTX 4090", gpu_count=2), ["1003"]),
        (Wish(gpu="RTX 4090", region="us"), ["1002"]),
        (Wish(gpu="RTX 4090", region="US, CA"), ["1002", "1003"]),
        (Wish(price_per_hour_max=0.36), ["1004", "1002"]),
        (Wish(gpu="RTX 4090", download_mbps_min=500.0), ["1001", "1003"]),
        (Wish(reliability_min=0.95, price_per_hour_max=0.4), ["1002"]),
        (Wish(disk_gb=1000), ["1005", "1006"]),
        (Wish(disk_gb=10_000), []),
        (Wish(gpu="V100"), ["1011"]),
        (Wish(gpu="V100", cuda_min=12.0), []),
        (Wish(gpu="GTX 1080", cuda_min=12.0), ["1010"]),
        (Wish(gpu="GTX 1080", compute_capability_min=7.0), []),
        (Wish(gpu_count=2, cuda_min=12.0, compute_capability_min=7.0), ["1003", "1006"]),
    ],
)
def test_offers_fulfil_the_wish(vast: VastProvider, wish: Wish, ids: list[str]) -> None:
    """GPU name in any spelling, count, region, price with the disk, bandwidth, reliability, disk, what CUDA code runs;
    cheapest first."""
    assert [found.id for found in vast.offers(wish)] == ids


def test_an_offer_says_what_it_is(vast: VastProvider) -> None:
    """In GB, megabits per second, and dollars for the whole machine with the disk of the wish."""
    found = vast.offers(Wish(gpu="H100 SXM", disk_gb=730))[0]
    assert (found.gpu, found.gpu_count, found.cores, found.memory_gb, found.disk_gb) == ("H100 SXM", 1, 16, 64, 2000)
    assert (found.region, found.download_mbps, found.reliability) == ("California, US", 5000.0, 0.995)
    assert (found.cuda_max, found.compute_capability) == (12.8, 8.9)
    assert found.price_per_hour == pytest.approx(2.10 + 0.15)


def test_offers_that_a_filter_should_have_removed_are_not_rented(market: VastAccount, vast: VastProvider) -> None:
    """The search returns everything: what does not fulfil the wish, or is malformed, is left out."""
    rows: list[Any] = [
        offer(1, "RTX 4090", 1.0, dph_total=1.0, disk_space=20.0),
        offer(2, "RTX 3090", 1.0, dph_total=1.0),
        offer(3, "RTX 4090", 1.0, dph_total=9.0),
        offer(4, "RTX 4090", 1.0, dph_total=1.0, geolocation="Osaka, JP"),
        offer(5, "RTX 4090", 1.0, dph_total=1.0, inet_down=None),
        offer(6, "RTX 4090", 1.0, dph_total=float("nan")),
        offer(7, "RTX 4090", 1.0),
        {**offer(8, "RTX 4090", 1.0, dph_total=1.0), "id": "8; DROP"},
        offer(9, "RTX 4090", 1.0, dph_total=1.0),
        offer(10, "RTX 4090", 1.0, dph_total=0.5),
        offer(11, "RTX 4090", 1.0, dph_total=0.1, cuda_max_good=11.8),
        offer(12, "RTX 4090", 1.0, dph_total=0.1, cuda_max_good="12.8"),
        offer(13, "RTX 4090", 1.0, dph_total=0.1, compute_cap=None),
        "not an offer",
    ]
    market.fail(SEARCH, 200, json.dumps({"offers": rows}))
    wish = Wish("RTX 4090", 1, "SE", 2.0, download_mbps_min=1.0, cuda_min=12.0, compute_capability_min=7.0)
    assert [found.id for found in vast.offers(wish)] == ["10", "9"]


def test_many_offers_are_cut_to_the_cheapest(market: VastAccount, vast: VastProvider) -> None:
    """No more than OFFERS_MAX."""
    market.server.offers = [offer(number, "H200", 5 - number / 100) for number in range(1, 60)]
    assert [found.id for found in vast.offers(Wish())][:2] == ["59", "58"] and len(vast.offers(Wish())) == OFFERS_MAX


def test_a_region_that_is_not_a_country_is_a_usage_error(market: VastAccount, vast: VastProvider) -> None:
    """The error for 'eu-west' says what is accepted."""
    with pytest.raises(UsageError, match="two-letter"):
        vast.offers(Wish(region="eu-west-1"))
    assert not market.server.requests


def test_spellings_are_few() -> None:
    """However long a name is."""
    assert len(spellings("a b c d e f g h " * 50)) <= 70 and spellings("  ")
    assert "RTX 6000Ada" in spellings("rtx_6000ada") and "Tesla T4" in spellings("tesla t4")


def test_a_machine_is_rented_with_label_disk_image_and_keys(market: VastAccount, vast: VastProvider) -> None:
    """The public key is attached, and the API key is in no body and no URL."""
    machine = market.provider(image="me/image:1").create("mine", Wish(gpu="H200", disk_gb=100))
    sent = next(body for body in market.server.bodies if body and "image" in body)
    assert (sent["image"], sent["disk"], sent["label"], sent["runtype"]) == ("me/image:1", 100, "mine", "ssh_direct")
    assert sent["onstart"] == "touch ~/.no_auto_tmux" and "price" not in sent and sent["cancel_unavail"] is True
    assert market.server.rented[int(machine.id)].public_keys == [PUBLIC_KEY]
    assert market.server.api_key not in json.dumps(list(market.server.bodies)) + " ".join(market.server.requests)
    assert machine.created_at.startswith("2") and machine.created_at.endswith("Z")


def test_the_default_disk_is_32_gb(market: VastAccount, vast: VastProvider) -> None:
    """For a wish without a disk, and only from offers that have as much."""
    machine = vast.create("m", Wish(gpu="RTX 4090"))
    assert market.server.rented[int(machine.id)].row["disk_space"] == 32
    assert "1008" not in [found.id for found in vast.offers(Wish())]


def test_a_spot_machine_is_bid_for_at_the_least_price(market: VastAccount, vast: VastProvider) -> None:
    """The bid is the offer's minimum, and the machine has the price of its offer."""
    offered = vast.offers(Wish(gpu="RTX 4090", spot=True))[0]
    machine = vast.create("m", Wish(gpu="RTX 4090", spot=True))
    assert offered.spot and offered.price_per_hour < 0.2
    assert machine.price_per_hour == pytest.approx(offered.price_per_hour)
    assert market.server.rented[int(machine.id)].row["is_bid"]


def test_a_taken_offer_is_followed_by_the_next(market: VastAccount, vast: VastProvider) -> None:
    """After two offers are gone, the third cheapest is rented, once."""
    market.server.behaviour.taken = 2
    machine = vast.create("m", Wish(gpu="RTX 4090"))
    assert machine.price_per_hour > 1.5 and len(market.server.created) == 1


def test_a_bid_that_has_become_too_low_is_followed_by_the_next_offer(market: VastAccount, vast: VastProvider) -> None:
    """A higher bid came since the search: nothing was created."""
    market.fail(CREATE, 400, '{"success": false, "error": "invalid_price", "msg": "bid too low"}')
    second = vast.offers(Wish(gpu="RTX 4090", spot=True))[1]
    assert vast.create("m", Wish(gpu="RTX 4090", spot=True)).price_per_hour == pytest.approx(second.price_per_hour)
    assert len(market.server.created) == 1


def test_too_many_taken_offers_end_it(market: VastAccount, vast: VastProvider) -> None:
    """At most five are tried; nothing was created, and another try may help."""
    market.server.offers = [offer(number, "H200", 1.0) for number in range(1, 20)]
    market.server.behaviour.taken = 99
    with pytest.raises(ProviderUnavailable, match="nothing was created"):
        vast.create("m", Wish())
    assert market.server.count(CREATE) == OFFERS_TRIED_MAX and not market.server.created


def test_a_refusal_names_the_wish(vast: VastProvider) -> None:
    """Nothing on the market: Refused, with what was asked for."""
    with pytest.raises(Refused, match=r"gpu=RTX 4090, price_per_hour_max=0\.01, disk_gb=32"):
        vast.create("m", Wish(gpu="RTX 4090", price_per_hour_max=0.01))


@pytest.mark.parametrize("fault", ["cut", "500", "garbage", "nameless"])
def test_a_lost_answer_to_create_is_never_repeated(market: VastAccount, vast: VastProvider, fault: str) -> None:
    """The request may have succeeded: the error says so, and the label finds the machine."""
    if fault == "cut":
        market.server.behaviour.create_answer_lost = True
    elif fault == "500":
        market.fail(CREATE, 500, "oops")
    else:
        market.fail(CREATE, 200, "<html>" if fault == "garbage" else '{"success": true, "new_contract": null}')
    with pytest.raises(ProviderUnavailable, match="labelled lost may exist and bill") as raised:
        vast.create("lost", Wish())
    assert raised.value.facts["label"] == "lost" and market.server.count(CREATE) == 1
    assert [found.id for found in vast.list_by_label("lost")] == [str(number) for number in market.server.created]
    assert len(market.server.created) == (fault == "cut")


def test_create_is_repeated_if_it_was_not_carried_out(market: VastAccount, vast: VastProvider) -> None:
    """As 429 says."""
    market.fail(CREATE, 429, "API requests too frequent", times=2)
    assert vast.create("m", Wish()).id == "5001" and market.server.count(CREATE) == 3


@pytest.mark.parametrize("to", [ATTACH, GET])
def test_a_machine_that_cannot_be_described_yet_is_not_lost(
    market: VastAccount, vast: VastProvider, to: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It bills: create returns its id, and the log says that nothing else was answered."""
    market.fail(to, 503, times=99)
    with caplog.at_level(logging.WARNING):
        machine = vast.create("m", Wish(gpu="H200"))
    assert (machine.id, machine.label, machine.running) == ("5001", "m", False)
    assert machine.price_per_hour == pytest.approx(vast.offers(Wish(gpu="H200"))[0].price_per_hour)
    assert "5001 was created" in caplog.text
