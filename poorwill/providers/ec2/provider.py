"""Machines of Amazon EC2: on demand or spot, in one region of one account.

A machine carries its label, its price and a token of its own as tags, and so do its volumes; it terminates when it
is shut down, and its volumes go with it. Source: EC2 API reference of 2016-11-15.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from poorwill.aws import FAULTS, aws_session, client_config, code_of
from poorwill.errors import (
    DeadlineExceeded,
    NotFound,
    PermanentError,
    PoorwillError,
    ProviderRefused,
    ProviderUnavailable,
    Refused,
    UsageError,
)
from poorwill.providers.base import Endpoint, Instance, Offer, SshEndpoint, Wish, checked_label
from poorwill.providers.ec2.errors import CAPACITY, EC2
from poorwill.providers.ec2.launch import DISK_MIBPS, GP3_GIB_MAX, Image, LaunchSettings, disk_gib, launch_request
from poorwill.providers.ec2.machines import MACHINE_STATES, Described, Ec2Machines, literal
from poorwill.providers.ec2.offers import Ec2Catalog
from poorwill.providers.ec2.prices import PriceList, beside_per_hour
from poorwill.retry import polls

IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""AWS's Deep Learning Base image with NVIDIA's open driver; it logs in as 'ubuntu' and has Python 3.12."""

OFFERS_TRIED_MAX = 5
CONNECTIONS_MAX = 10
ATTEMPTS_MAX = 4
PRICES_REGION = "us-east-1"
POLL_S = 5.0
VISIBLE_POLLS_MAX = 30
VOLUMES_TIMEOUT_S = 60.0
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_BILLING_STATES = (*MACHINE_STATES, "shutting-down")
log = logging.getLogger(__name__)


class Ec2Provider:
    """The machines of one region. `client` and `ssm` are boto3 clients of EC2 and SSM, `prices` knows what types cost.

    Machines boot `image_id`, else the image that the public SSM parameter `image_parameter` names on that day; `user`
    logs in there, with one of `public_keys`. The security groups, or the default one of the VPC, must let SSH in.
    `instance_types` are those to choose from; empty: any. `public_ip=False` needs a route to private addresses.
    `account` names the account in messages and records.

    `Instance.price_per_hour` of a spot machine is its price when it was created; NaN if the price is unknown.
    """

    def __init__(
        self,
        client: Any,
        *,
        region: str,
        prices: PriceList,
        ssm: Any = None,
        image_id: str = "",
        image_parameter: str = IMAGE_PARAMETER,
        user: str = "ubuntu",
        public_keys: Sequence[str] = (),
        security_group_ids: Sequence[str] = (),
        subnet_id: str | None = None,
        instance_types: Sequence[str] = (),
        public_ip: bool = True,
        account: str = "",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if _REGION.fullmatch(region) is None:
            raise UsageError(f"'{region[:40]}' is not a region of AWS: expected one like us-east-1")
        if not image_id and ssm is None:
            raise UsageError("an EC2 provider needs an image_id, or a client of SSM to find one")
        self._client, self._ssm = client, ssm
        self._region, self._account, self._user = region, account, user
        self._image_id, self._image_parameter = image_id, image_parameter
        self._settings = LaunchSettings(tuple(public_keys), tuple(security_group_ids), subnet_id, public_ip)
        self._catalog = Ec2Catalog(client, region, prices, instance_types)
        self._machines = Ec2Machines(client, self.describe(), region, prices, public_ip)
        self._clock, self._sleep = clock, sleep

    @classmethod
    def connect(
        cls,
        region: str,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        endpoint: str | None = None,
        prices: PriceList | None = None,
        **settings: Any,
    ) -> Ec2Provider:
        """A provider with its own clients, and the prices of AWS unless others are given. No request is sent yet.

        Keys that are not given come from the usual AWS variables and files. ProviderRefused, UsageError.
        """
        what, config = f"EC2 in {region}: cannot connect", client_config(CONNECTIONS_MAX, ATTEMPTS_MAX)
        try:
            with EC2.translated(what):
                session = aws_session(region, access_key, secret_key, session_token)
                client, ssm, pricing = (
                    session.client(service, region_name=where, endpoint_url=endpoint, config=config)
                    for service, where in (("ec2", region), ("ssm", region), ("pricing", PRICES_REGION))
                )
        except ValueError as error:
            raise UsageError(f"{what}: the endpoint is not a URL like https://host:9000") from error
        return cls(client, region=region, ssm=ssm, prices=prices or PriceList(pricing), **settings)

    def describe(self) -> str:
        return f"EC2 in {self._region}" + (f" of account {self._account}" if self._account else "")

    def __repr__(self) -> str:
        return f"<Ec2Provider: {self.describe()}>"

    def offers(self, wish: Wish) -> list[Offer]:
        try:
            return self._choices(wish.check())[0]
        except Refused as error:
            log.info("%s", error.message)
            return []

    def create(self, label: str, wish: Wish) -> Instance:
        """See Provider. At most OFFERS_TRIED_MAX offers are tried, each with its own client token.

        By its token, a request that the client repeats makes one machine. EC2 may take some seconds to list a machine:
        this call waits for it. A caller that lost the answer should wait as long before it creates another.
        """
        checked_label(label)
        wish.check()
        if not (self._settings.public_keys or self._image_id):
            raise UsageError(f"{self.describe()}: nobody could log in to the machine: set public_keys")
        offers, image, beside = self._choices(wish)
        ceiling = None if wish.price_per_hour_max is None else wish.price_per_hour_max - beside
        taken = []
        for offer in offers[:OFFERS_TRIED_MAX]:
            request = launch_request(self._settings, image, offer, label, wish, ceiling)
            try:
                described = self._client.run_instances(**request)["Instances"][0]
            except FAULTS as error:
                if code_of(error) not in CAPACITY:
                    raise self._not_created(error, label) from error
                taken.append(f"{offer.id} ({code_of(error)})")
                continue
            self._await_visible(described["InstanceId"])
            return self._machines.instance(described)
        raise Refused(f"{self.describe()}: the offers are gone: {', '.join(taken)}")

    def _choices(self, wish: Wish) -> tuple[list[Offer], Image, float]:
        """Offers, image, and price per hour of disk and address. Refused, naming what is missing."""
        if wish.reliability_min is not None or wish.download_mbps_min is not None:
            raise Refused(
                f"{self.describe()} does not promise a reliability or a download speed: leave out reliability_min and "
                "download_mbps_min"
            )
        zone = self._zone(wish)
        image = self._image()
        size_gib = disk_gib(image, wish)
        if size_gib > GP3_GIB_MAX:
            raise Refused(f"{self.describe()} has disks of {GP3_GIB_MAX} GiB at most, {size_gib} were asked for")
        beside = beside_per_hour(size_gib, DISK_MIBPS, self._settings.public_ip)
        return self._catalog.offers(wish, image, zone, beside), image, beside

    def _zone(self, wish: Wish) -> str | None:
        """The zone of the wish or the subnet; None for any. Refused if they are not in this region, or differ."""
        wished = wish.region
        if wished not in (None, self._region) and re.fullmatch(self._region + "[a-z]", str(wished)) is None:
            raise Refused(f"{self.describe()} has no machines in {wished}: wish for {self._region} or a zone of it")
        wished = None if wished == self._region else wished
        if self._settings.subnet_id is None:
            return wished
        with EC2.translated(f"{self.describe()}: cannot find subnet {self._settings.subnet_id}"):
            found = self._client.describe_subnets(SubnetIds=[self._settings.subnet_id])["Subnets"]
        zone = str(found[0]["AvailabilityZone"])
        if wished not in (None, zone):
            raise Refused(f"{self.describe()}: subnet {self._settings.subnet_id} is in {zone}, {wished} was asked for")
        return zone

    def _image(self) -> Image:
        what = f"{self.describe()}: cannot find the image {self._image_id or self._image_parameter}"
        with EC2.translated(what):
            image_id = self._image_id or self._ssm.get_parameter(Name=self._image_parameter)["Parameter"]["Value"]
            found = self._client.describe_images(ImageIds=[image_id])["Images"]
        if not found:
            raise ProviderRefused(f"{what}: it is not in this region, or not this account's to use")
        return Image.from_description(found[0], self.describe())

    def _not_created(self, error: BaseException, label: str) -> PoorwillError:
        found = EC2.error(error, f"{self.describe()}: cannot create a machine labelled {label}")
        if isinstance(found, ProviderUnavailable):
            return ProviderUnavailable(
                f"{found.message}; it may exist all the same, and bill: look before trying again"
            )
        return found

    def _await_visible(self, instance_id: str) -> None:
        """EC2 is eventually consistent: until a new machine is listed, it would seem to be gone."""
        try:
            for _ in range(VISIBLE_POLLS_MAX):
                if self._machines.described(instance_id) is not None:
                    return
                self._sleep(1.0)
        except PoorwillError as error:
            log.warning("%s was created, and cannot be asked for: %s", instance_id, error.message)

    def get(self, instance_id: str) -> Instance:
        return self._machines.instance(self._machines.found(instance_id))

    def list_by_label(self, label: str) -> list[Instance]:
        return [found for found in self._machines.listed(literal(label)) if found.label == label]

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        return [found for found in self._machines.listed(literal(prefix) + "*") if found.label.startswith(prefix)]

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        for _ in self._polls(timeout_s):
            described = self._machines.found(instance_id)
            state = described["State"]["Name"]
            if state == "running" and self._machines.address(described):
                return self._machines.instance(described)
        raise DeadlineExceeded(
            f"{self.describe()}: instance {instance_id} is {state} and cannot be reached after {timeout_s:.0f} s; "
            "it goes on billing"
        )

    def _polls(self, timeout_s: float) -> Iterator[float]:
        return polls(POLL_S, timeout_s, clock=self._clock, sleep=self._sleep)

    def endpoint(self, instance_id: str) -> Endpoint:
        address = self._machines.address(self._machines.found(instance_id))
        if not address:
            raise NotFound(f"{self.describe()}: instance {instance_id} has no address yet: wait until it runs")
        return SshEndpoint(address, 22, self._user)

    def exists(self, instance_id: str) -> bool:
        described = self._machines.described(instance_id)
        if described is None:
            return False
        return described["State"]["Name"] in _BILLING_STATES or bool(self._machines.volumes(described))

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        """See Provider. ProviderRefused if the machine has termination protection.

        A volume that was changed to outlive the machine is named in the error, and not deleted.
        """
        described = self._machines.described(instance_id)
        if described is None:
            return
        if described["State"]["Name"] != "terminated":
            what = f"{self.describe()}: instance {instance_id} goes on billing, cannot terminate it"
            with suppress(NotFound), EC2.translated(what):
                self._client.terminate_instances(InstanceIds=[instance_id])
        for left_s in self._polls(timeout_s):
            now = self._machines.described(instance_id)
            state = now["State"]["Name"] if now else "terminated"
            if state == "terminated":
                self._await_no_volumes(described, left_s)
                return
        raise DeadlineExceeded(
            f"{self.describe()}: instance {instance_id} is {state} after {timeout_s:.0f} s; "
            "it may go on billing: destroy it again"
        )

    def _await_no_volumes(self, described: Described, timeout_s: float) -> None:
        for _ in self._polls(min(timeout_s, VOLUMES_TIMEOUT_S)):
            left = self._machines.volumes(described)
            if not left:
                return
        message = (
            f"{self.describe()}: instance {described['InstanceId']} is gone, but its volumes {', '.join(left)} "
            "go on billing: delete them if nobody needs them"
        )
        raise DeadlineExceeded(message) if timeout_s < VOLUMES_TIMEOUT_S else PermanentError(message)
