"""From a wish to offers of vast.ai's market."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from poorwill.errors import UsageError
from poorwill.providers.base import Offer, Wish
from poorwill.providers.vast.answers import CAPABILITY_UNIT, number, offer_of

DISK_GB = 32
"""The disk for a wish without one: vast.ai's own default of 8 GB is too small for the workspace of a CUDA image."""
_ROWS_MAX = 64
_WORDS_MAX = 5
_COUNTRIES = re.compile(r"[A-Z]{2}(,[A-Z]{2})*")
_COUNTRY_AT_END = re.compile(r"(?:^|[ ,])([A-Z]{2})$")


def disk_gb(wish: Wish) -> int:
    """The disk to ask for. It cannot be changed later."""
    return DISK_GB if wish.disk_gb is None else wish.disk_gb


def described(wish: Wish) -> str:
    """The fields of the wish that are set, for messages."""
    wishes = ((field.name, getattr(wish, field.name)) for field in fields(wish) if field.name != "disk_gb")
    return ", ".join([*(f"{name}={value}" for name, value in wishes if value), f"disk_gb={disk_gb(wish)}"])


def search_body(wish: Wish) -> dict[str, Any]:
    """The search that finds a wish's offers, priced with its disk, cheapest first. UsageError for an unknown region.

    Only machines that vast.ai has verified, with NVIDIA GPUs and a port of their own for SSH.
    """
    body: dict[str, Any] = {
        "type": "bid" if wish.spot else "on-demand",
        "order": [["dph_total", "asc"]],
        "limit": _ROWS_MAX,
        "allocated_storage": disk_gb(wish),
        "disk_space": {"gte": disk_gb(wish)},
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "direct_port_count": {"gte": 1},
        "gpu_arch": {"eq": "nvidia"},
    }
    capability = wish.compute_capability_min
    least = {
        "num_gpus": wish.gpu_count,
        "inet_down": wish.download_mbps_min,
        "reliability": wish.reliability_min,
        "cuda_max_good": wish.cuda_min,
        "compute_cap": None if capability is None else round(capability * CAPABILITY_UNIT),
    }
    body.update({name: {"gte": value} for name, value in least.items() if value is not None})
    if wish.gpu is not None:
        body["gpu_name"] = {"in": spellings(wish.gpu)}
    if wish.region is not None:
        body["geolocation"] = {"in": countries(wish.region)}
    if wish.price_per_hour_max is not None:
        body["dph_total"] = {"lte": wish.price_per_hour_max}
    return body


def countries(region: str) -> list[str]:
    """'us, ca' as ['US', 'CA']. UsageError for anything but a list of country codes."""
    codes = re.sub(r"\s", "", region).upper()
    if _COUNTRIES.fullmatch(codes) is None:
        raise UsageError(f"region '{region[:80]}': vast.ai knows two-letter country codes, like US or DE,FR")
    return codes.split(",")


def spellings(gpu: str) -> list[str]:
    """The ways in which vast.ai may spell a GPU: its search compares names exactly.

    `gpu` may have any case, and '_' or ' ' or neither between words. vast.ai's names are in capitals ('RTX 4090', 'H100
    SXM') but for 'Ti', 'Tesla', '6000Ada' and the like.
    """
    asked = " ".join(gpu.replace("_", " ").split())
    spaced = re.sub(r"^([A-Za-z]{3,})(?=[0-9])", r"\1 ", asked)
    found = dict.fromkeys((asked, spaced))
    for words in (asked.split(" "), spaced.split(" ")):
        choices = [dict.fromkeys((word.upper(), word.title())) for word in words[:_WORDS_MAX]]
        for chosen in itertools.product(*choices):
            found[" ".join([*chosen, *words[_WORDS_MAX:]])] = None
    return list(found)


def chosen(rows: Iterable[Any], wish: Wish) -> list[tuple[Offer, float | None]]:
    """The offers that fulfil a wish, cheapest first, each with the lowest bid that gets it (None: no bid is needed).

    The search's filters are applied again: one that vast.ai ignored must not rent the wrong machine.
    """
    found = []
    for row in rows:
        offer = offer_of(row, wish.spot) if isinstance(row, Mapping) else None
        if offer is None or not _fulfils(offer, wish):
            continue
        bid = (number(row, "min_bid") or None) if wish.spot else None
        if bid is not None or not wish.spot:
            found.append((offer, bid))
    return sorted(found, key=lambda pair: pair[0].price_per_hour)


def _fulfils(offer: Offer, wish: Wish) -> bool:
    country = _COUNTRY_AT_END.search(offer.region)
    return (
        offer.disk_gb >= disk_gb(wish)
        and (wish.gpu is None or _folded(offer.gpu) == _folded(wish.gpu))
        and offer.gpu_count >= (wish.gpu_count or 0)
        and (wish.price_per_hour_max is None or offer.price_per_hour <= wish.price_per_hour_max)
        and _at_least(offer.download_mbps, wish.download_mbps_min)
        and _at_least(offer.reliability, wish.reliability_min)
        and _at_least(offer.cuda_max, wish.cuda_min)
        and _at_least(offer.compute_capability, wish.compute_capability_min)
        and (wish.region is None or country is None or country[1] in countries(wish.region))
    )


def _at_least(found: float | None, wished: float | None) -> bool:
    return wished is None or (found is not None and found >= wished)


def _folded(gpu: str) -> str:
    return re.sub(r"[\s_]", "", gpu).lower()
