"""What EC2 instances cost per hour on demand, by AWS's price list.

Source: AWS Price List Query API, GetProducts of AmazonEC2. Its endpoints are in us-east-1, eu-central-1 and
ap-south-1 and know the prices of all commercial regions, not those of China or GovCloud.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

from poorwill.errors import ProviderUnavailable
from poorwill.providers.ec2.errors import EC2

HOURS_PER_MONTH = 730  # as AWS counts
GP3_PER_GB_MONTH = 0.08
"""US dollars for a GB-month of a gp3 volume in us-east-1: https://aws.amazon.com/ebs/pricing/. Other regions ask
up to twice as much."""
GP3_PER_MIBPS_MONTH = 0.04
"""For each MiB/s above GP3_MIBPS_FREE, in us-east-1: the same page."""
GP3_MIBPS_FREE = 125
PUBLIC_IPV4_PER_HOUR = 0.005
"""In every region since February 2024: https://aws.amazon.com/vpc/pricing/"""

_KNOWN_MAX = 4096
_PRODUCTS_MAX = 20


class PriceList:
    """Prices on demand, Linux, shared tenancy. Asks AWS once for each type and region, and remembers the answers."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._remembered = lru_cache(_KNOWN_MAX)(self._asked)

    def price_per_hour(self, instance_type: str, region: str) -> float | None:
        """US dollars, without disk and address. None: not known. ProviderRefused, ProviderUnavailable."""
        return self._remembered(instance_type, region)

    def _asked(self, instance_type: str, region: str) -> float | None:
        wanted = {
            "instanceType": instance_type,
            "regionCode": region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        what = f"the AWS price list: cannot price {instance_type} in {region} (pricing:GetProducts)"
        with EC2.translated(what):
            page = self._client.get_products(ServiceCode="AmazonEC2", Filters=filters, MaxResults=_PRODUCTS_MAX)
        try:
            found = [price for text in page.get("PriceList", []) for price in _hourly(json.loads(text))]
        except (ValueError, TypeError, AttributeError) as error:
            raise ProviderUnavailable(f"{what}: the answer is not a price list ({type(error).__name__})") from None
        return max(found, default=None)  # several products differ in what was not asked for: take the highest price


def _hourly(product: dict[str, Any]) -> list[float]:
    attributes = product.get("product", {}).get("attributes", {})
    if attributes.get("marketoption", "OnDemand") != "OnDemand":  # a capacity block is paid in advance
        return []
    found = []
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            price = float(dimension.get("pricePerUnit", {}).get("USD", "nan"))
            if dimension.get("unit") == "Hrs" and math.isfinite(price) and price > 0:
                found.append(price)
    return found


def beside_per_hour(disk_gb: float, disk_mibps: int, public_ip: bool) -> float:
    """What the disk and the public address of a machine cost per hour, in US dollars."""
    monthly = disk_gb * GP3_PER_GB_MONTH + max(0, disk_mibps - GP3_MIBPS_FREE) * GP3_PER_MIBPS_MONTH
    return monthly / HOURS_PER_MONTH + (PUBLIC_IPV4_PER_HOUR if public_ip else 0.0)
