"""Answers that EC2 gives and moto does not: refusals, shortages, silence, long lists, changing states."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from botocore.config import Config
from botocore.stub import ANY, Stubber

from poorwill.errors import DeadlineExceeded, NotFound, ProviderRefused, ProviderUnavailable, Refused
from poorwill.providers.base import Instance, Wish
from poorwill.providers.ec2.errors import paged
from poorwill.providers.ec2.offers import InstanceType
from poorwill.providers.ec2.prices import PriceList
from poorwill.providers.ec2.provider import OFFERS_TRIED_MAX, Ec2Provider
from tests.support.ec2_server import Clock, FixedPrices

ID = "i-0123456789abcdef0"
WHEN = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
TYPES = [f"g5.{size}" for size in ("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge", "24xlarge", "48xlarge")]
KEYS = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "SECRET", "region_name": "us-east-1"}
SERVER_TEXT = "AWSAccessKeyId=AKIA-SECRET StringToSign"


@pytest.fixture(scope="module")
def client() -> Any:
    return boto3.client("ec2", endpoint_url="http://ec2.invalid", **KEYS)


@pytest.fixture(scope="module")
def pricing() -> Any:
    return boto3.client("pricing", endpoint_url="http://pricing.invalid", **KEYS)


@pytest.fixture
def script(client: Any) -> Iterator[Stubber]:
    with Stubber(client) as script:
        yield script
        script.assert_no_pending_responses()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def on(client: Any, clock: Clock) -> Ec2Provider:
    prices = FixedPrices({name: 1.0 + number for number, name in enumerate(TYPES)})
    return Ec2Provider(client, region="us-east-1", image_id="ami-1", prices=prices, clock=clock, sleep=clock.sleep)


@pytest.fixture
def provider(client: Any, clock: Clock) -> Ec2Provider:
    return on(client, clock)


def machine(state: str, **more: Any) -> dict[str, Any]:
    tags = [{"Key": "poorwill:label", "Value": "m"}, {"Key": "poorwill:price-per-hour", "Value": "1.5"}]
    about = {"InstanceId": ID, "State": {"Name": state}, "LaunchTime": WHEN, "Tags": tags, **more}
    return {"Instances": [about]}


def show(script: Stubber, state: str, **more: Any) -> None:
    script.add_response("describe_instances", {"Reservations": [machine(state, **more)]}, {"InstanceIds": [ID]})


IMAGE = {
    "ImageId": "ami-1", "Architecture": "x86_64", "RootDeviceType": "ebs", "RootDeviceName": "/dev/sda1",
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 75}},
        {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 10}},
    ],
}  # fmt: skip


def instance_type(name: str, **gpu: Any) -> dict[str, Any]:
    about = {"Name": "A10G", "Manufacturer": "NVIDIA", "Count": 1, "MemoryInfo": {"SizeInMiB": 22888}, **gpu}
    return {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 16384},
        "GpuInfo": {"Gpus": [about]},
    }


def show_choices(script: Stubber, types: list[str]) -> None:
    script.add_response("describe_images", {"Images": [IMAGE]}, {"ImageIds": ["ami-1"]})
    script.add_response("describe_instance_types", {"InstanceTypes": [instance_type(name) for name in types]})


@pytest.mark.parametrize(
    ("code", "status", "kind", "advice"),
    [
        ("VcpuLimitExceeded", 400, ProviderRefused, "Service Quotas"),
        ("MaxSpotInstanceCountExceeded", 400, ProviderRefused, "Service Quotas"),
        ("UnauthorizedOperation", 403, ProviderRefused, "IAM policy"),
        ("AuthFailure", 401, ProviderRefused, "secret key"),
        ("SignatureDoesNotMatch", 403, ProviderRefused, "secret key"),
        ("InvalidGroup.NotFound", 400, ProviderRefused, "security groups"),
        ("Odd\nCode <b>", 418, ProviderRefused, "418"),
        ("RequestLimitExceeded", 503, ProviderUnavailable, "look before"),
        ("InternalError", 500, ProviderUnavailable, "look before"),
        ("AnyOther", 502, ProviderUnavailable, "look before"),
        ("AnyOther", 429, ProviderUnavailable, "look before"),
    ],
)
def test_refusals_of_a_creation(
    provider: Ec2Provider, script: Stubber, code: str, status: int, kind: type[Exception], advice: str
) -> None:
    """Each says what to do, in one line, without the server's own text; no other offer is tried."""
    show_choices(script, TYPES[:2])
    script.add_client_error("run_instances", code, SERVER_TEXT, http_status_code=status)
    with pytest.raises(kind, match=advice) as caught:
        provider.create("m", Wish())
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and "SECRET" not in str(caught.value)


def test_an_offer_that_is_gone_is_followed_by_the_next(provider: Ec2Provider, script: Stubber) -> None:
    """After a shortage, also with status 500, or a type that the zone does not have, the next cheapest is created."""
    show_choices(script, TYPES)
    for code, status in (("InsufficientInstanceCapacity", 500), ("Unsupported", 400)):
        script.add_client_error("run_instances", code, http_status_code=status)
    data_disk = {"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}
    disks = [{"DeviceName": "/dev/sda1", "Ebs": ANY}, data_disk]
    asked = {"InstanceType": TYPES[2], "ImageId": "ami-1", "BlockDeviceMappings": disks}
    others = ("MinCount", "MaxCount", "ClientToken", "TagSpecifications", "NetworkInterfaces", "MetadataOptions")
    fixed = {"InstanceInitiatedShutdownBehavior": "terminate"}
    script.add_response("run_instances", machine("pending"), {**asked, **fixed, **dict.fromkeys(others, ANY)})
    show(script, "pending")
    assert provider.create("m", Wish()) == Instance(ID, "m", False, "2026-11-20T12:00:00Z", 1.5)


def test_not_every_offer_is_tried(provider: Ec2Provider, script: Stubber) -> None:
    """After OFFERS_TRIED_MAX shortages it is Refused, naming what was tried."""
    show_choices(script, TYPES)
    for _ in range(OFFERS_TRIED_MAX):
        script.add_client_error("run_instances", "InsufficientInstanceCapacity", http_status_code=500)
    with pytest.raises(Refused, match=r"g5\.xlarge \(InsufficientInstanceCapacity\)"):
        provider.create("m", Wish())


def test_create_waits_until_the_machine_is_listed(provider: Ec2Provider, script: Stubber, clock: Clock) -> None:
    """EC2 does not list it at first: it would seem to be gone."""
    show_choices(script, TYPES)
    script.add_response("run_instances", machine("pending"))
    for _ in range(3):
        script.add_client_error("describe_instances", "InvalidInstanceID.NotFound", http_status_code=400)
    show(script, "pending")
    assert provider.create("m", Wish()).id == ID
    assert clock.now_s == 3.0


def test_a_created_machine_is_returned_even_if_it_cannot_be_described(provider: Ec2Provider, script: Stubber) -> None:
    """After the creation no error hides the machine's id."""
    show_choices(script, TYPES)
    script.add_response("run_instances", machine("pending"))
    script.add_client_error("describe_instances", "UnauthorizedOperation", http_status_code=403)
    assert provider.create("m", Wish()).id == ID


def test_waiting_for_a_machine(provider: Ec2Provider, script: Stubber, clock: Clock) -> None:
    """Until it runs and has an address, until the time is over, or until it has ended."""
    show(script, "pending")
    show(script, "running")
    show(script, "running", PublicIpAddress="192.0.2.1")
    assert provider.wait(ID, 60.0).running and clock.now_s == 10.0
    for _ in range(3):
        show(script, "pending")
    with pytest.raises(DeadlineExceeded, match="goes on billing"):
        provider.wait(ID, 8.0)
    assert clock.now_s == 18.0
    show(script, "terminated", StateReason={"Code": "Client.VolumeLimitExceeded", "Message": SERVER_TEXT})
    with pytest.raises(NotFound, match=r"terminated \(Client.VolumeLimitExceeded\)"):
        provider.wait(ID, 60.0)


def test_destroying_waits_and_says_what_bills(provider: Ec2Provider, script: Stubber, clock: Clock) -> None:
    """A machine that keeps shutting down exists, cannot be used, and is named when the time is over."""
    show(script, "running")
    script.add_response("terminate_instances", {}, {"InstanceIds": [ID]})
    for _ in range(4):
        show(script, "shutting-down")
    with pytest.raises(DeadlineExceeded, match=f"{ID} is shutting-down after 12 s"):
        provider.destroy(ID, 12.0)
    assert clock.now_s == 12.0
    show(script, "shutting-down")
    assert provider.exists(ID)
    show(script, "shutting-down")
    with pytest.raises(NotFound):
        provider.get(ID)


def test_an_error_never_means_that_a_machine_is_gone(provider: Ec2Provider, script: Stubber) -> None:
    """Only 'no such instance' means gone: with any other answer a machine may bill."""
    for ask in (provider.exists, lambda i: provider.destroy(i, 1.0), provider.get):
        script.add_client_error("describe_instances", "InternalError", SERVER_TEXT, http_status_code=500)
        with pytest.raises(ProviderUnavailable):
            ask(ID)
        script.add_client_error("describe_instances", "AuthFailure", SERVER_TEXT, http_status_code=401)
        with pytest.raises(ProviderRefused):
            ask(ID)


def test_a_list_is_read_to_its_end(client: Any, provider: Ec2Provider, script: Stubber) -> None:
    """An endless list, or one that goes in circles, is an error and not a short list."""
    script.add_response("describe_instances", {"Reservations": [machine("running")], "NextToken": "1"})
    script.add_response("describe_instances", {"Reservations": [machine("stopped"), machine("pending")]})
    assert [found.running for found in provider.list_by_label("m")] == [True, False, False]
    for tokens, match in ((["1", "2", "3"], "does not end after 2 pages"), (["1", "1"], "circles")):
        for token in tokens:
            script.add_response("describe_instances", {"Reservations": [], "NextToken": token})
        with pytest.raises(ProviderUnavailable, match=match):
            list(paged(client, "describe_instances", "EC2", 2 if len(tokens) == 3 else 9))


def test_spot_prices_are_the_newest_of_each_zone(provider: Ec2Provider, script: Stubber) -> None:
    """Older prices and those of other types do not count; the cheapest zone is first."""
    show_choices(script, TYPES[:1])

    def price(zone: str, text: str, age_h: int, name: str = TYPES[0]) -> dict[str, Any]:
        when = WHEN - timedelta(hours=age_h)
        return {"InstanceType": name, "AvailabilityZone": zone, "SpotPrice": text, "Timestamp": when}

    history = [price("us-east-1a", "0.1", 2), price("us-east-1a", "0.6", 1), price("us-east-1b", "0.5", 3)]
    history.append(price("us-east-1c", "0.01", 1, "t3.nano"))
    script.add_response("describe_spot_price_history", {"SpotPriceHistory": history})
    offers = provider.offers(Wish(spot=True))
    assert [(offer.id, offer.region) for offer in offers] == [
        ("g5.xlarge@us-east-1b", "us-east-1b"),
        ("g5.xlarge@us-east-1a", "us-east-1a"),
    ]
    assert offers[1].price_per_hour - offers[0].price_per_hour == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("wish", "fits"),
    [
        (Wish(gpu="A10G"), True),
        (Wish(gpu="nvidia a10g"), True),
        (Wish(gpu="A10G-24GB"), True),
        (Wish(gpu="A10G 40GB"), False),
        (Wish(gpu="A10"), False),
        (Wish(gpu="A100"), False),
        (Wish(gpu_count=1), True),
        (Wish(gpu="A10G", gpu_count=4), False),
        (Wish(), True),
    ],
)
def test_gpus_are_known_by_name_memory_and_count(wish: Wish, fits: bool) -> None:
    """Case, maker and punctuation do not matter; the count is exact, and a slice of a GPU does not count."""
    assert InstanceType.from_description(instance_type("g5.xlarge")).has(wish) is fits
    sliced = InstanceType.from_description(instance_type("g6f.large", GpuPartitionSize=0.125))
    assert sliced.has(wish) is (wish == Wish())


def product(usd: str, unit: str = "Hrs", **attributes: str) -> str:
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    terms = {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}}
    return json.dumps({"product": {"attributes": attributes}, "terms": terms})


def test_prices_of_aws(pricing: Any) -> None:
    """By the hour, on demand, asked for once; blocks paid in advance, zeros and other units do not count."""
    prices = PriceList(pricing)
    with Stubber(pricing) as script:
        listed = [product("1.006"), product("0"), product("9", "Quantity"), product("7", marketoption="CapacityBlock")]
        script.add_response("get_products", {"PriceList": listed})
        script.add_response("get_products", {"PriceList": []})
        for _ in range(2):
            assert prices.price_per_hour("g5.xlarge", "us-east-1") == 1.006
            assert prices.price_per_hour("g9.none", "us-east-1") is None
        script.add_response("get_products", {"PriceList": ["[]", "{"]})
        with pytest.raises(ProviderUnavailable, match="not a price list"):
            prices.price_per_hour("odd", "us-east-1")
        script.add_client_error("get_products", "AccessDeniedException", SERVER_TEXT, http_status_code=400)
        with pytest.raises(ProviderRefused, match="pricing:GetProducts"):
            prices.price_per_hour("other", "us-east-1")
        script.assert_no_pending_responses()


def test_a_listing_does_not_fail_for_lack_of_a_price(client: Any, pricing: Any, script: Stubber) -> None:
    """The price list refuses the request: the machine is listed all the same."""
    provider = Ec2Provider(client, region="us-east-1", image_id="ami-1", prices=PriceList(pricing))
    script.add_response("describe_instances", {"Reservations": [machine("running", Tags=[], InstanceType="x")]})
    with Stubber(pricing) as refusing:
        refusing.add_client_error("get_products", "AccessDeniedException", http_status_code=400)
        assert provider.get(ID).price_per_hour != 0.0


class Silence(BaseHTTPRequestHandler):
    """Answers with `server.answers`, by action; hangs up where there is none. Keeps what was asked."""

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        answer = self.server.answers.get(asked["Action"][0])  # type: ignore[attr-defined]
        if answer is None:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


IMAGE_XML = b"""<R><imagesSet><item><imageId>ami-1</imageId><architecture>x86_64</architecture><rootDeviceType>ebs
</rootDeviceType><rootDeviceName>/dev/sda1</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/sda1</deviceName>
<ebs><volumeSize>75</volumeSize></ebs></item></blockDeviceMapping></item></imagesSet></R>""".replace(b"\n", b"")
TYPES_XML = (
    b"<R><instanceTypeSet><item><instanceType>g5.xlarge</instanceType><vCpuInfo><defaultVCpus>4</defaultVCpus>"
    b"</vCpuInfo><memoryInfo><sizeInMiB>16384</sizeInMiB></memoryInfo></item></instanceTypeSet></R>"
)


def test_a_lost_answer_is_asked_for_again_with_the_same_token_and_then_reported(clock: Clock) -> None:
    """The connection ends after RunInstances: the client's own retry cannot make a second machine, and no other offer
    is tried; the error says that the machine may bill, in words without a secret."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silence)
    server.asked = []  # type: ignore[attr-defined]
    server.answers = {"DescribeImages": IMAGE_XML, "DescribeInstanceTypes": TYPES_XML}  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        retries = Config(retries={"mode": "standard", "total_max_attempts": 2})
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        provider = on(boto3.client("ec2", endpoint_url=endpoint, config=retries, **KEYS), clock)
        with pytest.raises(ProviderUnavailable, match="it may exist all the same, and bill") as caught:
            provider.create("m", Wish())
    finally:
        server.shutdown()
        server.server_close()
    runs = [asked for asked in server.asked if asked["Action"] == ["RunInstances"]]  # type: ignore[attr-defined]
    assert len(runs) == 2 and runs[0]["ClientToken"] == runs[1]["ClientToken"]
    assert "SECRET" not in str(caught.value) and "AKIA" not in str(caught.value)
