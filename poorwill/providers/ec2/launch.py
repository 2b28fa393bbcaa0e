"""The request that creates one EC2 instance: its image, keys, network, and disks that go away with it.

Source: EC2 API reference, RunInstances; cloud-init's `ssh_authorized_keys`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poorwill.errors import ProviderRefused
from poorwill.providers.base import Offer, Wish, checked_public_keys

LABEL_TAG = "poorwill:label"
PRICE_TAG = "poorwill:price-per-hour"
TOKEN_TAG = "poorwill:token"  # of one machine and its volumes: labels are not unique

GP3_GIB_MAX = 65_536
DISK_MIBPS = 500  # the 3,000 IOPS that cost nothing carry 750, at 0.25 MiB/s each


@dataclass(frozen=True, slots=True)
class Image:
    """What a machine boots."""

    id: str
    architecture: str
    root_device: str
    root_gib: int
    data_devices: tuple[str, ...] = ()  # further volumes that the image brings

    @classmethod
    def from_description(cls, described: dict[str, Any], what: str) -> Image:
        """From an answer of DescribeImages. ProviderRefused if the image has no disk of its own."""
        root = str(described.get("RootDeviceName", ""))
        disks = {m["DeviceName"]: m["Ebs"] for m in described.get("BlockDeviceMappings", []) if m.get("Ebs")}
        if described.get("RootDeviceType") != "ebs" or root not in disks:
            raise ProviderRefused(
                f"{what}: image {described['ImageId']} does not boot from an EBS volume: choose another"
            )
        return cls(
            id=described["ImageId"],
            architecture=described.get("Architecture", "x86_64"),
            root_device=root,
            root_gib=int(disks[root].get("VolumeSize", 8)),
            data_devices=tuple(sorted(set(disks) - {root})),
        )


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """What an operator decides once for all machines. UsageError for impossible settings."""

    public_keys: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    subnet_id: str | None = None
    public_ip: bool = True

    def __post_init__(self) -> None:
        checked_public_keys(self.public_keys)


def disk_gib(image: Image, wish: Wish) -> int:
    """The size of the root volume: the disk of the wish and that of the image.

    A GB of the wish becomes a GiB: the file system takes the other 7%.
    """
    return image.root_gib + (wish.disk_gb or 0)


def token_of(label: str) -> str:
    """A new client token of at most 64 characters."""
    return f"poorwill-{hashlib.sha256(label.encode()).hexdigest()[:16]}-{secrets.token_hex(16)}"


def launch_request(
    settings: LaunchSettings, image: Image, offer: Offer, label: str, wish: Wish, ceiling: float | None
) -> dict[str, Any]:
    """Arguments of RunInstances for one machine of `offer`. `ceiling`: a spot instance's highest price per hour."""
    token = token_of(label)
    instance_type, _, zone = offer.id.partition("@")
    tags = [
        {"Key": "Name", "Value": label},
        {"Key": LABEL_TAG, "Value": label},
        {"Key": TOKEN_TAG, "Value": token},
        {"Key": PRICE_TAG, "Value": f"{offer.price_per_hour:.6f}"},
    ]
    tagged = ["instance", "volume", *(["spot-instances-request"] if wish.spot else [])]
    request: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token,
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in tagged],
        "BlockDeviceMappings": _disks(image, wish),
        "NetworkInterfaces": [_interface(settings)],
        "InstanceInitiatedShutdownBehavior": "terminate",  # a machine that is only stopped bills its disk
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
    }
    if zone:
        request["Placement"] = {"AvailabilityZone": zone}
    if settings.public_keys:
        request["UserData"] = user_data(settings.public_keys)
    if wish.spot:
        request["InstanceMarketOptions"] = _spot(ceiling)
    return request


def user_data(public_keys: Sequence[str]) -> str:
    """A cloud-config that authorizes these keys. It is readable on the machine, and holds no secret."""
    return "#cloud-config\n" + json.dumps({"ssh_authorized_keys": list(public_keys)}) + "\n"  # JSON is YAML


def _disks(image: Image, wish: Wish) -> list[dict[str, Any]]:
    root = {
        "VolumeSize": disk_gib(image, wish),
        "VolumeType": "gp3",
        "Throughput": DISK_MIBPS,
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    disks: list[dict[str, Any]] = [{"DeviceName": image.root_device, "Ebs": root}]
    disks += [{"DeviceName": device, "Ebs": {"DeleteOnTermination": True}} for device in image.data_devices]
    return disks


def _interface(settings: LaunchSettings) -> dict[str, Any]:
    interface: dict[str, Any] = {
        "DeviceIndex": 0,
        "AssociatePublicIpAddress": settings.public_ip,
        "DeleteOnTermination": True,
    }
    if settings.subnet_id:
        interface["SubnetId"] = settings.subnet_id
    if settings.security_group_ids:
        interface["Groups"] = list(settings.security_group_ids)
    return interface


def _spot(ceiling: float | None) -> dict[str, Any]:
    options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
    if ceiling is not None:
        options["MaxPrice"] = f"{ceiling:.6f}"
    return {"MarketType": "spot", "SpotOptions": options}
