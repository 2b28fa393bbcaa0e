"""EC2 against moto's server: how a machine is created, what is destroyed with it, what it costs."""

from __future__ import annotations

import base64
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from poorwill.errors import NotFound, PermanentError, ProviderRefused, Refused, UsageError
from poorwill.providers.base import Instance, SshEndpoint, Wish
from poorwill.providers.ec2.offers import InstanceType
from poorwill.providers.ec2.provider import Ec2Provider
from tests.support.ec2_server import PRICES, PUBLIC_KEY, REGION, SECRET_KEY, Clock, Ec2Server, FixedPrices

A10G = Wish(gpu="A10G", gpu_count=1)
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[Ec2Server]:
    with Ec2Server() as server:
        yield server


@pytest.fixture(scope="module")
def connected(server: Ec2Server) -> Ec2Provider:
    return server.provider()


@pytest.fixture
def provider(server: Ec2Server, connected: Ec2Provider) -> Iterator[Ec2Provider]:
    yield connected
    server.clear()


@pytest.fixture(scope="module")
def sent(server: Ec2Server) -> list[dict[str, Any]]:
    """The parameters of every RunInstances through the server's own client, as they are sent."""
    seen: list[dict[str, Any]] = []
    server.client.meta.events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: seen.append(params)
    )
    return seen


def given(server: Ec2Server, **settings: Any) -> Ec2Provider:
    """A provider on the server's own client: making clients is slow."""
    defaults = {
        "image_id": "ami-1e749f67",
        "instance_types": sorted(PRICES),
        "prices": FixedPrices(PRICES),
        "public_keys": [PUBLIC_KEY],
    }
    return Ec2Provider(server.client, region=REGION, **{**defaults, **settings})


def described(server: Ec2Server, instance: Instance) -> dict[str, Any]:
    return server.client.describe_instances(InstanceIds=[instance.id])["Reservations"][0]["Instances"][0]


def tags(thing: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in thing["Tags"]}


def test_a_machine_on_demand_has_label_price_and_token(server: Ec2Server, provider: Ec2Provider) -> None:
    """On machine and volume; the encrypted gp3 disk is deleted with the machine, and shutdown terminates it."""
    ec2 = server.client
    instance = provider.create("one", Wish(gpu="a10g", gpu_count=1, disk_gb=200))
    machine = described(server, instance)
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert machine["InstanceType"] == "g5.xlarge" and "InstanceLifecycle" not in machine
    assert tags(machine) == tags(volume)
    assert tags(machine)["Name"] == tags(machine)["poorwill:label"] == "one"
    assert float(tags(machine)["poorwill:price-per-hour"]) == instance.price_per_hour > PRICES["g5.xlarge"]
    assert (volume["VolumeType"], volume["Encrypted"]) == ("gp3", True) and volume["Size"] == 200 + 15
    (disk,) = machine["BlockDeviceMappings"]
    assert disk["DeviceName"] == machine["RootDeviceName"] and disk["Ebs"]["DeleteOnTermination"]
    assert machine["MetadataOptions"]["HttpTokens"] == "required"
    behaviour = ec2.describe_instance_attribute(InstanceId=instance.id, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"] == {"Value": "terminate"}
    told = ec2.describe_instance_attribute(InstanceId=instance.id, Attribute="userData")["UserData"]["Value"]
    text = base64.b64decode(told).decode()
    assert text.startswith("#cloud-config\n") and PUBLIC_KEY in text
    endpoint = provider.endpoint(instance.id)
    assert isinstance(endpoint, SshEndpoint) and endpoint == SshEndpoint(machine["PublicIpAddress"], 22, "ubuntu")


def test_a_spot_machine_terminates_when_interrupted_and_has_a_highest_price(
    server: Ec2Server, sent: list[dict[str, Any]], provider: Ec2Provider
) -> None:
    """One-time, in the offered zone; the highest price is the wish's less that of disk and address."""
    spot = given(server)
    wish = Wish(gpu="A10G", gpu_count=1, spot=True, price_per_hour_max=0.5)
    offers = spot.offers(wish)
    assert len(offers) > 1 and all(offer.spot and offer.region.startswith(REGION) for offer in offers)
    machine = described(server, spot.create("two", wish))
    assert machine["InstanceLifecycle"] == "spot"
    assert machine["Placement"]["AvailabilityZone"] == offers[0].region
    market = sent[-1]["InstanceMarketOptions"]
    assert market["MarketType"] == "spot"
    assert market["SpotOptions"]["SpotInstanceType"] == "one-time"
    assert market["SpotOptions"]["InstanceInterruptionBehavior"] == "terminate"
    beside = offers[0].price_per_hour - 0.00001
    assert float(market["SpotOptions"]["MaxPrice"]) == pytest.approx(0.5 - beside, abs=1e-5)
    kinds = {spec["ResourceType"] for spec in sent[-1]["TagSpecifications"]}
    assert kinds == {"instance", "volume", "spot-instances-request"}


def test_each_creation_has_its_own_client_token(
    server: Ec2Server, sent: list[dict[str, Any]], provider: Ec2Provider
) -> None:
    """At most 64 characters, new each time, and a tag of the machine."""
    two = given(server)
    instances = [two.create("same", A10G) for _ in range(2)]
    tokens = [request["ClientToken"] for request in sent[-2:]]
    assert len(set(tokens)) == 2 and all(len(token) <= 64 for token in tokens)
    assert [tags(described(server, instance))["poorwill:token"] for instance in instances] == tokens
    assert all(request["MinCount"] == request["MaxCount"] == 1 for request in sent[-2:])


def test_a_volume_that_stays_is_named_as_billing_and_not_deleted(server: Ec2Server, provider: Ec2Provider) -> None:
    """The machine is gone, its volume is not: destroy says so each time until the volume is deleted."""
    clock, ec2 = Clock(), server.client
    mine = given(server, clock=clock, sleep=clock.sleep)
    kept, gone = mine.create("same", A10G), mine.create("same", A10G)
    (disk,) = described(server, kept)["BlockDeviceMappings"]
    keep = [{"DeviceName": disk["DeviceName"], "Ebs": {"DeleteOnTermination": False}}]
    ec2.modify_instance_attribute(InstanceId=kept.id, BlockDeviceMappings=keep)
    mine.destroy(gone.id, TIMEOUT_S)  # the other machine's volume of the same label is none of its own
    volume = disk["Ebs"]["VolumeId"]
    with pytest.raises(PermanentError, match=f"{volume} go on billing"):
        mine.destroy(kept.id, 900.0)
    assert mine.exists(kept.id) and mine.list_by_label("same") == []
    ec2.delete_volume(VolumeId=volume)
    mine.destroy(kept.id, TIMEOUT_S)
    assert not mine.exists(kept.id)


def test_termination_protection_is_respected(server: Ec2Server, provider: Ec2Provider) -> None:
    """Destroy leaves the machine, and says that it bills and what to do."""
    instance = provider.create("kept", A10G)
    server.client.modify_instance_attribute(InstanceId=instance.id, DisableApiTermination={"Value": True})
    with pytest.raises(ProviderRefused, match=f"{instance.id} goes on billing.*termination protection"):
        provider.destroy(instance.id, TIMEOUT_S)
    assert provider.exists(instance.id) and provider.get(instance.id).running


def test_a_stopped_machine_still_counts(server: Ec2Server, provider: Ec2Provider) -> None:
    """Its disk bills: it exists, is listed, and does not run."""
    instance = provider.create("stopped", A10G)
    server.client.stop_instances(InstanceIds=[instance.id])
    assert provider.exists(instance.id) and not provider.get(instance.id).running
    assert [found.id for found in provider.list_by_label("stopped")] == [instance.id]


def test_wildcards_in_a_label_match_only_themselves(provider: Ec2Provider) -> None:
    """'*' and '?' find nothing, although they are wildcards in EC2's filters."""
    provider.create("wild-card", A10G)
    for text in ("*", "?", "wild?", "wi*d", "wild-\\"):
        assert provider.list_by_prefix(text) == [] and provider.list_by_label(text) == []
    assert len(provider.list_by_prefix("wild-")) == len(provider.list_by_label("wild-card")) == 1


def test_only_machines_with_our_label_are_listed(server: Ec2Server, provider: Ec2Provider) -> None:
    """Another machine is not listed for any prefix."""
    server.client.run_instances(ImageId="ami-1e749f67", InstanceType="t3.medium", MinCount=1, MaxCount=1)
    assert provider.list_by_prefix("") == []


def test_a_price_without_a_tag_is_looked_up_or_unknown_and_never_free(server: Ec2Server, provider: Ec2Provider) -> None:
    """If the tag was removed: the price list, or NaN for a spot machine and if the list has no price."""
    ec2 = server.client
    bought = provider.create("bought", A10G)
    spot = provider.create("spot", Wish(gpu="A10G", gpu_count=1, spot=True))
    ec2.delete_tags(Resources=[bought.id, spot.id], Tags=[{"Key": "poorwill:price-per-hour"}])
    assert provider.get(bought.id).price_per_hour == PRICES["g5.xlarge"]
    assert math.isnan(provider.get(spot.id).price_per_hour)
    ec2.create_tags(Resources=[bought.id], Tags=[{"Key": "poorwill:price-per-hour", "Value": "0.0"}])
    assert math.isnan(given(server, prices=FixedPrices({})).get(bought.id).price_per_hour)


def test_offers_have_known_prices_within_the_ceiling(server: Ec2Server) -> None:
    """Types without a price and expensive ones are left out; if none is left, creating says why."""
    mine = given(server, prices=FixedPrices({"g5.xlarge": 1.0, "g5.12xlarge": 6.0}))
    assert [offer.id for offer in mine.offers(Wish())] == ["g5.xlarge", "g5.12xlarge"]
    assert [offer.id for offer in mine.offers(Wish(price_per_hour_max=2.0))] == ["g5.xlarge"]
    assert mine.offers(Wish(price_per_hour_max=0.5)) == []
    with pytest.raises(Refused, match=r"price_per_hour_max 0\.5"):
        mine.create("dear", Wish(price_per_hour_max=0.5))
    with pytest.raises(Refused, match=r"t3\.medium is not known"):
        given(server, prices=FixedPrices({}), instance_types=["t3.medium"]).create("unknown", Wish())
    plain, large = mine.offers(A10G)[0], mine.offers(Wish(gpu="A10G", gpu_count=1, disk_gb=730))[0]
    assert large.price_per_hour - plain.price_per_hour == pytest.approx(0.08)


def test_a_gpu_for_cuda_is_a_whole_one_of_nvidia_and_new_enough(server: Ec2Server) -> None:
    """Of all types with GPUs those of AMD, slices and what is older than wished for are left out; what is not known
    here is new. A provider that is kept to types without GPUs says so."""
    wish = Wish(cuda_min=12.0, compute_capability_min=7.0)
    types = ["g4dn.xlarge", "g6f.large", "t3.medium", "g7.2xlarge"]
    offered = given(server, instance_types=types, prices=FixedPrices(dict.fromkeys(types, 1.0)))
    assert {offer.id for offer in offered.offers(wish)} == {"g4dn.xlarge", "g7.2xlarge"}
    assert [offer.compute_capability for offer in offered.offers(replace(wish, gpu="T4"))] == [7.5]
    assert {offer.id for offer in offered.offers(replace(wish, compute_capability_min=8.0))} == {"g7.2xlarge"}
    with pytest.raises(Refused, match=r"1 any NVIDIA GPU of compute capability 7\.0 or higher"):
        given(server, instance_types=["t3.medium"]).create("none", replace(wish, gpu_count=1))

    def gpu(name: str, maker: str) -> InstanceType:
        gpus = [{"Name": name, "Manufacturer": maker, "Count": 1}]
        sizes = {"VCpuInfo": {"DefaultVCpus": 4}, "MemoryInfo": {"SizeInMiB": 1024}}
        return InstanceType.from_description({"InstanceType": "x", **sizes, "GpuInfo": {"Gpus": gpus}})

    assert not gpu("Radeon Pro V520", "AMD").has(wish) and not gpu("M60", "NVIDIA").has(wish)
    assert gpu("Z999", "NVIDIA").has(wish) and gpu("Radeon Pro V520", "AMD").has(Wish(gpu_count=1))


def test_what_ec2_does_not_promise_is_refused_by_name(server: Ec2Server, provider: Ec2Provider) -> None:
    """Speed, reliability, other regions, disks larger than gp3: no offers, and nothing is created."""
    wishes = {
        "reliability_min": Wish(reliability_min=0.9),
        "download_mbps_min": Wish(download_mbps_min=100),
        "eu-west-1": Wish(region="eu-west-1"),
        "us-east-1-bos-1a": Wish(region="us-east-1-bos-1a"),
        "GiB": Wish(disk_gb=70_000),
    }
    for named, wish in wishes.items():
        assert provider.offers(wish) == []
        with pytest.raises(Refused, match=named):
            provider.create("refused", wish)
    assert provider.list_by_label("refused") == []


def test_the_zone_of_a_wish_or_a_subnet_is_used(server: Ec2Server, provider: Ec2Provider) -> None:
    """A wish for another zone than the subnet's is refused."""
    wished = provider.create("zoned", Wish(gpu="A10G", gpu_count=1, region="us-east-1b"))
    assert described(server, wished)["Placement"]["AvailabilityZone"] == "us-east-1b"
    subnets = server.client.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1c"]}])
    subnet = subnets["Subnets"][0]["SubnetId"]
    inside = given(server, subnet_id=subnet, public_ip=False)
    made = described(server, inside.create("inside", A10G))
    assert (made["SubnetId"], made["Placement"]["AvailabilityZone"]) == (subnet, "us-east-1c")
    assert {offer.region for offer in inside.offers(Wish(spot=True))} == {"us-east-1c"}
    with pytest.raises(Refused, match="us-east-1b was asked for"):
        inside.create("outside", Wish(region="us-east-1b"))
    endpoint = inside.endpoint(made["InstanceId"])
    assert isinstance(endpoint, SshEndpoint) and endpoint.host == made["PrivateIpAddress"]


def test_a_missing_image_is_named(server: Ec2Server) -> None:
    """By id and by parameter; and a machine without keys is not created."""
    with pytest.raises(ProviderRefused, match="ami-00000000"):
        given(server, image_id="ami-00000000").offers(Wish())
    missing = server.provider(image_parameter="/aws/service/none")
    with pytest.raises(ProviderRefused, match="correct image_parameter"):
        missing.create("none", Wish())
    with pytest.raises(UsageError, match="public_keys"):
        given(server, image_id="", ssm=server.client, public_keys=[]).create("locked", Wish())


def test_nothing_secret_is_shown(server: Ec2Server) -> None:
    """Neither by the provider nor by the error for a private key in place of a public one."""
    shown = server.provider(account="1234")
    assert SECRET_KEY not in f"{shown!r} {shown.describe()} {vars(shown)!r}"
    assert shown.describe() == "EC2 in us-east-1 of account 1234"
    for key in ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blb", "ssh-ed25519 AAAA me\nruncmd: [x]", ""):
        with pytest.raises(UsageError) as caught:
            given(server, public_keys=[key])
        assert "b3Blb" not in str(caught.value) and "runcmd" not in str(caught.value)


def test_impossible_settings_are_refused(server: Ec2Server) -> None:
    """Malformed regions, no image."""
    with pytest.raises(UsageError):
        given(server, image_id="")
    with pytest.raises(UsageError):
        Ec2Provider(server.client, region="us-east-1a/..", image_id="ami-1", prices=FixedPrices({}))
    with pytest.raises(NotFound):
        given(server).endpoint("i-0123456789abcdef0")


def test_the_protocol_of_providers_does_not_import_boto3() -> None:
    """Nor any library of AWS."""
    code = "import sys, poorwill.providers.base, poorwill.providers.local; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
