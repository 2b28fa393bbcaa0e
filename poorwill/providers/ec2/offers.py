"""Which EC2 instance types fulfil a wish, and at what price: on demand, or spot in a zone.

Source: EC2 API reference, DescribeInstanceTypes, DescribeSpotPriceHistory, DescribeInstanceTypeOfferings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from poorwill.errors import Refused
from poorwill.providers.base import OFFERS_MAX, Offer, Wish
from poorwill.providers.ec2.errors import paged
from poorwill.providers.ec2.launch import GP3_GIB_MAX, Image
from poorwill.providers.ec2.prices import PriceList

log = logging.getLogger(__name__)
_TYPES_PAGES_MAX = 40
_PRICES_PAGES_MAX = 40
CANDIDATES_MAX = 40
_MAKERS = {"nvidia", "amd", "tesla"}
_MEMORY = re.compile(r"(\d+)gi?b?")
# Of NVIDIA's GPUs on EC2: https://developer.nvidia.com/cuda-gpus and its page of older ones. GPUs newer than this list
# are missing.
_COMPUTE_CAPABILITIES = {
    "gridk520": 3.0, "k520": 3.0, "k80": 3.7, "m60": 5.2, "v100": 7.0, "t4": 7.5, "t4g": 7.5, "a100": 8.0, "a10g": 8.6,
    "l4": 8.9, "l40s": 8.9, "h100": 9.0, "h200": 9.0, "b200": 10.0, "b300": 10.3, "rtxpro4500": 12.0,
    "rtxproserver6000": 12.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InstanceType:
    """A type of EC2 instance. GPUs of which it has only a slice are not counted."""

    name: str
    cores: int
    memory_gb: float
    gpu: str = ""
    gpu_count: int = 0
    gpu_memory_gib: float = 0.0
    nvidia: bool = False
    compute_capability: float | None = None

    @classmethod
    def from_description(cls, described: dict[str, Any]) -> InstanceType:
        gpus = [g for g in described.get("GpuInfo", {}).get("Gpus", []) if g.get("GpuPartitionSize", 1) >= 1]
        gpu = gpus[0] if gpus else {}
        nvidia = str(gpu.get("Manufacturer", "")).lower() == "nvidia"
        return cls(
            name=described["InstanceType"],
            cores=int(described["VCpuInfo"]["DefaultVCpus"]),
            memory_gb=described["MemoryInfo"]["SizeInMiB"] * 2**20 / 1e9,
            gpu=str(gpu.get("Name", "")),
            gpu_count=int(gpu.get("Count", 0)),
            gpu_memory_gib=gpu.get("MemoryInfo", {}).get("SizeInMiB", 0) / 1024,
            nvidia=nvidia,
            compute_capability=_COMPUTE_CAPABILITIES.get(_gpu_name(str(gpu.get("Name", "")))[0]) if nvidia else None,
        )

    def has(self, wish: Wish) -> bool:
        """Whether its GPUs fulfil the wish. The count must be equal: a machine with 8 GPUs costs 8 times as much.

        `cuda_min` is not compared: the driver is the image's, and AWS's own images support every CUDA in use.
        """
        if wish.gpu_count is not None and self.gpu_count != wish.gpu_count:
            return False
        least = wish.compute_capability_min
        if (least or wish.cuda_min) and not (self.gpu_count and self.nvidia):
            return False
        if least and self.compute_capability is not None and self.compute_capability < least:
            return False
        if wish.gpu is None:
            return True
        wanted, wanted_gib = _gpu_name(wish.gpu)
        found, _ = _gpu_name(self.gpu)
        # "40 GB" of an A100 are 40 GiB, "24 GB" of an A10G are 22.4.
        return self.gpu_count > 0 and wanted == found and (not wanted_gib or 0.85 * wanted_gib <= self.gpu_memory_gib)


def _gpu_name(text: str) -> tuple[str, int]:
    """A GPU's name to compare, and its GB if the name holds them: 'NVIDIA A100-80GB' is ('a100', 80)."""
    words = [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word and word not in _MAKERS]
    memory = [int(found[1]) for word in words if (found := _MEMORY.fullmatch(word))]
    names = [word for word in words if not _MEMORY.fullmatch(word)]
    return "".join(names), memory[0] if memory else 0


def _gpus_wished(wish: Wish) -> str:
    """For messages; "" for a wish without a GPU."""
    least = wish.compute_capability_min
    if not (wish.gpu or wish.gpu_count or wish.cuda_min or least):
        return ""
    kind = wish.gpu or ("any NVIDIA GPU" if wish.cuda_min or least else "any GPU")
    return f"{wish.gpu_count or ''} {kind}".strip() + (f" of compute capability {least:.1f} or higher" if least else "")


class Ec2Catalog:
    """What a region offers. `allowed`: the types to choose from; empty: any."""

    def __init__(self, client: Any, region: str, prices: PriceList, allowed: Sequence[str]) -> None:
        self._client, self._region, self._prices, self._allowed = client, region, prices, list(allowed)

    def offers(self, wish: Wish, image: Image, zone: str | None, beside: float) -> list[Offer]:
        """Cheapest first, at least one, at most OFFERS_MAX; `beside` is the price per hour of disk and address.

        Types without a known price are left out. Only the CANDIDATES_MAX smallest types that fulfil the wish are
        priced: within a family, a larger one costs more. Refused, naming what is missing.
        """
        types = [found for found in self._types(wish, image.architecture, zone) if found.has(wish)]
        if not types:
            raise Refused(
                f"EC2 in {zone or self._region} has no {_market(wish)} instance type with "
                f"{_gpus_wished(wish) or image.architecture}"
            )
        types.sort(key=lambda t: (t.gpu_count, t.cores, t.memory_gb, t.name))
        types = types[:CANDIDATES_MAX]
        price = self._spot_prices if wish.spot else self._prices_on_demand
        found = [
            Offer(
                id=found_type.name + (f"@{place}" if place != self._region else ""),
                gpu=found_type.gpu, gpu_count=found_type.gpu_count, cores=found_type.cores,
                memory_gb=found_type.memory_gb, disk_gb=float(GP3_GIB_MAX - image.root_gib), region=place,
                price_per_hour=round(price_per_hour + beside, 6), spot=wish.spot,
                compute_capability=found_type.compute_capability,
            )
            for found_type, place, price_per_hour in price(types, zone)
        ]  # fmt: skip
        if not found:
            names = ", ".join(t.name for t in types[:5])
            raise Refused(f"EC2 in {zone or self._region}: the {_market(wish)} price of {names} is not known: allow "
                          "pricing:GetProducts and ec2:DescribeSpotPriceHistory")  # fmt: skip
        return _affordable(found, wish)

    def _types(self, wish: Wish, architecture: str, zone: str | None) -> list[InstanceType]:
        filters = {"processor-info.supported-architecture": [architecture], "supported-usage-class": [_market(wish)]}
        if self._allowed:
            filters["instance-type"] = self._allowed
        elif _gpus_wished(wish):
            filters["instance-type"] = ["g*", "p*"]  # all families with GPUs, instead of a thousand types
        what = f"EC2 in {self._region}: cannot list instance types"
        pages = paged(self._client, "describe_instance_types", what, _TYPES_PAGES_MAX, Filters=_filters(filters))
        found = [InstanceType.from_description(t) for page in pages for t in page["InstanceTypes"]]
        if zone is None:
            return found
        here = self._types_in(zone)
        return [t for t in found if t.name in here]

    def _types_in(self, zone: str) -> set[str]:
        what = f"EC2 in {zone}: cannot list instance types"
        pages = paged(
            self._client, "describe_instance_type_offerings", what, _TYPES_PAGES_MAX,
            LocationType="availability-zone", Filters=_filters({"location": [zone]}),
        )  # fmt: skip
        return {offering["InstanceType"] for page in pages for offering in page["InstanceTypeOfferings"]}

    def _prices_on_demand(
        self, types: list[InstanceType], zone: str | None
    ) -> Iterator[tuple[InstanceType, str, float]]:
        unknown = []
        for found in types:
            price = self._prices.price_per_hour(found.name, self._region)
            if price is None:
                unknown.append(found.name)
            else:
                yield found, zone or self._region, price
        if unknown:
            log.warning("EC2 in %s: the price of %s is unknown: not offered", self._region, ", ".join(unknown))

    def _spot_prices(self, types: list[InstanceType], zone: str | None) -> Iterator[tuple[InstanceType, str, float]]:
        by_name = {t.name: t for t in types}
        request: dict[str, Any] = {"AvailabilityZone": zone} if zone else {}
        pages = paged(
            self._client, "describe_spot_price_history", f"EC2 in {self._region}: cannot list spot prices",
            _PRICES_PAGES_MAX, InstanceTypes=sorted(by_name), ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.now(timezone.utc),  # the price in effect now, of every zone
            **request,
        )  # fmt: skip
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for entry in (entry for page in pages for entry in page["SpotPriceHistory"]):
            place = (entry["InstanceType"], entry["AvailabilityZone"])
            if place[0] in by_name and zone in (None, place[1]):
                newest[place] = max(newest.get(place, entry), entry, key=itemgetter("Timestamp"))
        for (name, where), entry in newest.items():
            yield by_name[name], where, float(entry["SpotPrice"])


def _market(wish: Wish) -> str:
    return "spot" if wish.spot else "on-demand"


def _filters(wanted: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": values} for name, values in wanted.items()]


def _affordable(offers: list[Offer], wish: Wish) -> list[Offer]:
    offers.sort(key=lambda offer: (offer.price_per_hour, offer.id))
    ceiling = wish.price_per_hour_max
    within = [offer for offer in offers if ceiling is None or offer.price_per_hour <= ceiling]
    if not within:
        raise Refused(
            f"EC2: the cheapest {_market(wish)} offer is {offers[0].id} at ${offers[0].price_per_hour:.3f} per hour "
            f"with its disk, above price_per_hour_max {ceiling}"
        )
    return within[:OFFERS_MAX]
