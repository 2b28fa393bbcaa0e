"""An EC2 that nobody pays for: moto's server on loopback, and providers on it.

moto checks no signature, ignores client tokens, prices nothing on demand and everything on spot at $0.00001, and a
machine runs at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from poorwill.providers.ec2.prices import PriceList
from poorwill.providers.ec2.provider import Ec2Provider

REGION = "us-east-1"
IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-x86_64"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPretend me@here"
SECRET_KEY = "wJalrXUtnFEMI-SECRET"
PRICES = {"t3.medium": 0.0416, "g5.xlarge": 1.006, "g5.12xlarge": 5.672, "p4d.24xlarge": 32.77}


class Clock:
    """Time that passes when somebody sleeps, and no other."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class FixedPrices(PriceList):
    """Given prices by instance type, in any region: moto has no price list."""

    def __init__(self, prices: Mapping[str, float]) -> None:
        self._prices = prices

    def price_per_hour(self, instance_type: str, region: str) -> float | None:
        return self._prices.get(instance_type)


class Ec2Server:
    """A context: the server runs inside it, in a thread of its own."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)

    def __enter__(self) -> Ec2Server:
        self._server.start()
        self.client: Any = boto3.client(
            "ec2", REGION, endpoint_url=self.endpoint, aws_access_key_id="AKIATEST", aws_secret_access_key="test"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    @property
    def endpoint(self) -> str:
        host, port = self._server.get_host_and_port()
        return f"http://{host}:{port}"

    def provider(self, **settings: Any) -> Ec2Provider:
        given: dict[str, Any] = {
            "prices": FixedPrices(PRICES),
            "instance_types": sorted(PRICES),
            "image_parameter": IMAGE_PARAMETER,
            "public_keys": [PUBLIC_KEY],
        }
        return Ec2Provider.connect(REGION, "AKIAPRETEND", SECRET_KEY, endpoint=self.endpoint, **{**given, **settings})

    def clear(self) -> None:
        """Terminate every machine and delete what volumes are left."""
        client = self.client
        described = [i for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
        alive = [i["InstanceId"] for i in described if i["State"]["Name"] != "terminated"]
        for instance_id in alive:
            client.modify_instance_attribute(InstanceId=instance_id, DisableApiTermination={"Value": False})
        if alive:
            client.terminate_instances(InstanceIds=alive)
        for volume in client.describe_volumes()["Volumes"]:
            client.delete_volume(VolumeId=volume["VolumeId"])
