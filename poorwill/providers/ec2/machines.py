"""The machines of an Ec2Provider as EC2 describes them, and what they cost.

Source: EC2 API reference, DescribeInstances, DescribeVolumes, TerminateInstances.
"""

from __future__ import annotations

import logging
import math
import re
from typing import Any

from poorwill import timestamps
from poorwill.errors import NotFound, PoorwillError
from poorwill.providers.base import Instance
from poorwill.providers.ec2.errors import EC2, paged
from poorwill.providers.ec2.launch import LABEL_TAG, PRICE_TAG, TOKEN_TAG
from poorwill.providers.ec2.prices import PriceList

MACHINE_STATES = ("pending", "running", "stopping", "stopped")
_PAGES_MAX = 50
_PAGE_SIZE = 1000
_ID = re.compile(r"i-[0-9a-f]{8,32}")
log = logging.getLogger(__name__)

Described = dict[str, Any]
"""An instance, as DescribeInstances shows it."""


class Ec2Machines:
    """Requests about machines. `place` names the provider in messages; `public_ip` says which address is used."""

    def __init__(self, client: Any, place: str, region: str, prices: PriceList, public_ip: bool) -> None:
        self._client, self._place, self._region = client, place, region
        self._prices, self._public_ip = prices, public_ip

    def listed(self, pattern: str) -> list[Instance]:
        pages = paged(
            self._client, "describe_instances", f"{self._place}: cannot list machines", _PAGES_MAX,
            Filters=[
                {"Name": f"tag:{LABEL_TAG}", "Values": [pattern]},
                {"Name": "instance-state-name", "Values": list(MACHINE_STATES)},
            ],
            PaginationConfig={"PageSize": _PAGE_SIZE},
        )  # fmt: skip
        return [
            self.instance(described)
            for page in pages
            for reservation in page["Reservations"]
            for described in reservation["Instances"]
        ]

    def volumes(self, described: Described) -> list[str]:
        """The volumes that were created with this machine and still exist."""
        token = _tags(described).get(TOKEN_TAG)
        if token is None:
            return []
        what = f"{self._place}: cannot list the volumes of {described['InstanceId']}"
        filters = [{"Name": f"tag:{TOKEN_TAG}", "Values": [literal(token)]}]
        pages = paged(self._client, "describe_volumes", what, _PAGES_MAX, Filters=filters)
        found = [volume for page in pages for volume in page["Volumes"]]
        return sorted(volume["VolumeId"] for volume in found if volume["State"] not in ("deleting", "deleted"))

    def found(self, instance_id: str) -> Described:
        """How EC2 describes a machine. NotFound also for one that has terminated or is about to; with EC2's reason."""
        described = self.described(instance_id)
        if described is None:
            raise NotFound(f"{self._place} has no instance {instance_id[:80]!r}", instance=instance_id)
        if described["State"]["Name"] not in MACHINE_STATES:
            reason = re.sub(r"[^A-Za-z0-9._-]", "", described.get("StateReason", {}).get("Code", ""))[:80]
            state = described["State"]["Name"] + (f" ({reason})" if reason else "")
            raise NotFound(f"{self._place}: instance {instance_id} is {state}", instance=instance_id)
        return described

    def described(self, instance_id: str) -> Described | None:
        if _ID.fullmatch(instance_id) is None:
            return None
        try:
            with EC2.translated(f"{self._place}: cannot ask for instance {instance_id}"):
                answer = self._client.describe_instances(InstanceIds=[instance_id])
        except NotFound:
            return None
        found = [described for reservation in answer["Reservations"] for described in reservation["Instances"]]
        return found[0] if found else None

    def address(self, described: Described) -> str:
        if not self._public_ip:
            return str(described.get("PrivateIpAddress") or "")
        return str(described.get("PublicIpAddress") or described.get("PublicDnsName") or "")

    def instance(self, described: Described) -> Instance:
        return Instance(
            id=described["InstanceId"],
            label=_tags(described).get(LABEL_TAG, ""),
            running=described["State"]["Name"] == "running",
            created_at=timestamps.text_of(described["LaunchTime"].timestamp()),
            price_per_hour=self._price(described),
        )

    def _price(self, described: Described) -> float:
        """As it was offered; else the price on demand of its type; else NaN, never 0. Raises nothing."""
        try:
            price = float(_tags(described).get(PRICE_TAG, "nan"))
        except ValueError:
            price = math.nan
        if math.isfinite(price) and price > 0:
            return price
        if described.get("InstanceLifecycle") == "spot":
            return math.nan
        try:
            listed = self._prices.price_per_hour(described["InstanceType"], self._region)
        except PoorwillError as error:
            log.warning("the price of %s is unknown: %s", described["InstanceId"], error.message)
            return math.nan
        return math.nan if listed is None else listed


def _tags(described: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in described.get("Tags", [])}


def literal(text: str) -> str:
    """`text` for a filter that matches it alone: '*' and '?' are wildcards there."""
    return re.sub(r"([*?\\])", r"\\\1", text)
