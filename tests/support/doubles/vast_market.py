"""The market of the double of vast.ai: what hosts offer, what it costs, and how it is searched."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

MONTH_HOURS = 730


def offer(offer_id: int, gpu: str, dph_base: float, **other: Any) -> dict[str, Any]:
    """An offer as hosts make it; its price for a disk is added to what a search answers."""
    return {
        "id": offer_id,
        "ask_contract_id": offer_id,
        "gpu_name": gpu,
        "gpu_arch": "nvidia",
        "cuda_max_good": 12.8,
        "driver_version": "570.124.06",
        "compute_cap": 890,
        "num_gpus": 1,
        "cpu_cores": 64,
        "cpu_cores_effective": 16.0,
        "cpu_ram": 64000,
        "disk_space": 500.0,
        "dph_base": dph_base,
        "min_bid": round(dph_base * 0.4, 4),
        "storage_cost": 0.15,  # dollars for a GB and month
        "inet_down": 800.0,
        "inet_up": 500.0,
        "reliability": 0.995,
        "reliability2": 0.995,
        "geolocation": "Sweden, SE",
        "direct_port_count": 20,
        "verified": True,
        "rentable": True,
        "rented": False,
        "external": False,
        **other,
    }


def market() -> list[dict[str, Any]]:
    """The offers that a new server has."""
    return [
        offer(1001, "RTX 4090", 0.40),
        offer(1002, "RTX 4090", 0.35, geolocation="Texas, US", inet_down=200.0),
        offer(1003, "RTX 4090", 1.50, num_gpus=4, geolocation="Quebec, CA"),
        offer(1004, "RTX 3060 Ti", 0.08, disk_space=60.0, reliability=0.91, reliability2=0.91),
        offer(1005, "H100 SXM", 2.10, geolocation="California, US", disk_space=2000.0, inet_down=5000.0),
        offer(1006, "H200", 3.00, num_gpus=8, disk_space=8000.0, inet_down=9000.0),
        offer(1007, "RTX 4090", 0.20, verified=False),
        offer(1008, "RTX 4090", 0.10, disk_space=8.0),
        offer(1009, "RTX 3090", 0.15, rented=True, rentable=False),
        offer(1010, "GTX 1080", 0.50, num_gpus=2, compute_cap=610),
        offer(1011, "V100", 0.60, num_gpus=4, compute_cap=700, cuda_max_good=11.4, driver_version="470.256.02"),
    ]


def price(offer: Mapping[str, Any], disk_gb: float, bid: bool) -> dict[str, Any]:
    """What a machine costs in an hour, with its disk."""
    base = offer["min_bid"] if bid else offer["dph_base"]
    return {"dph_base": base, "dph_total": base + disk_gb * offer["storage_cost"] / MONTH_HOURS}


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda found, wanted: found in wanted,
    "notin": lambda found, wanted: found not in wanted,
}


def passes(row: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Whether a row is what was searched for; unlike the real market it knows no default filters."""
    for name, conditions in filters.items():
        if not isinstance(conditions, dict):
            continue  # order, limit, type, ...
        found = row.get(name)
        if name == "geolocation":
            found = str(found)[-2:]  # searched by country, told with its region
        if not all(_OPERATORS[name](found, wanted) for name, wanted in conditions.items()):
            return False
    return True
