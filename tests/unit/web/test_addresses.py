"""Which addresses may be reached: special ones, those with another inside, and what an operator allows."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.web.addresses import AllowRule, refusal

_INTERNAL = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
_internal = st.sampled_from(_INTERNAL).flatmap(lambda network: st.ip_addresses(network=network))
_ports = st.integers(1, 65535)
untimed = settings(deadline=None)


def _mapped(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("::ffff:0:0")) | int(address))


def _nat64(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("64:ff9b::")) | int(address))


def _isatap(address: IPv4Address) -> IPv6Address:
    return IPv6Address(int(IPv6Address("2606:4700::5efe:0:0")) | int(address))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "this host"),
        ("0.1.2.3", "this host"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "carrier"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("169.254.1.1", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.8", "protocols"),
        ("192.0.0.9", "protocols"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "benchmarks"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "IPv4-compatible"),
        ("::8.8.8.8", "IPv4-compatible"),
        ("64:ff9b:1::808:808", "NAT64"),
        ("100::1", "not a public"),
        ("2001::1", "Teredo"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
        ("2001:2::1", "protocols"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::", "6to4"),
        ("2002:808:808::", "6to4"),
        ("3fff::1", "documentation"),
        ("4000::1", "not a public"),
        ("5f00::1", "not a public"),
        ("fc00::1", "private"),
        ("fdff::1", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "zone"),
        ("2606:4700::1111%1", "zone"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("ff0e::1", "multicast"),
    ],
)
def test_special_addresses(address: str, why: str) -> None:
    """Each is refused with its name, whatever this version of Python says about it."""
    found = refusal(ip_address(address), 443)
    assert found is not None and why in found


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",  # AWS, Google Cloud, Azure, OpenStack, DigitalOcean
        "169.254.170.2",  # AWS: credentials of a container
        "fd00:ec2::254",  # AWS over IPv6
        "fd20:ce::254",  # Google Cloud over IPv6
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud
        "168.63.129.16",  # Azure: a public address that means the host
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_metadata_services(address: str) -> None:
    """Which give out a machine's credentials."""
    assert refusal(ip_address(address), 80) is not None


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700:4700::1111"],
)
def test_public_addresses(address: str) -> None:
    """Allowed, also translated by NAT64, by which machines with IPv6 alone reach IPv4."""
    assert refusal(ip_address(address), 443) is None


@untimed
@given(_internal)
def test_an_embedded_ipv4_address_is_judged(inner: IPv4Address) -> None:
    """An internal address is refused in every form that leads to it."""
    assert refusal(inner, 80) is not None
    for carry in (_mapped, _nat64, _isatap):
        assert refusal(carry(inner), 80) is not None


@untimed
@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_judged_like_the_address_itself(inner: IPv4Address) -> None:
    """In v4-mapped and NAT64 addresses: public stays public, internal stays internal."""
    assert (
        refusal(_mapped(inner), 80) == refusal(_nat64(inner), 80) == refusal(_isatap(inner), 80) == refusal(inner, 80)
    )


@untimed
@given(st.ip_addresses())
def test_never_beyond_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    """What `ipaddress` calls private or multicast is refused."""
    carried = isinstance(address, IPv6Address) and int(address) >> 32 in (0xFFFF, 0x64FF9B << 64)
    if not carried and (not address.is_global or address.is_multicast):
        assert refusal(address, 80) is not None


@untimed
@given(_internal, _ports, st.ip_addresses(), _ports)
def test_a_rule_allows_what_it_names(named: IPv4Address, port: int, other: IPv4Address, other_port: int) -> None:
    """This address with this port, its v4-mapped form, and nothing else."""
    rule = AllowRule.parse(f"{named}:{port}")
    assert refusal(named, port, (rule,)) is None
    assert refusal(_mapped(named), port, (rule,)) is None
    assert refusal(_nat64(named), port, (rule,)) is not None
    if other_port != port:
        assert refusal(named, other_port, (rule,)) is not None
    if other not in (named, _mapped(named)):
        assert refusal(other, port, (rule,)) == refusal(other, port)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("127.0.0.1:8123", ("127.0.0.1", 8123), ("127.0.0.1", 80)),
        ("127.0.0.1", ("127.0.0.1", 1), ("127.0.0.2", 1)),
        ("10.0.0.0/8", ("10.255.0.1", 9000), ("11.0.0.1", 9000)),
        ("10.1.0.0/16:443", ("10.1.2.3", 443), ("10.1.2.3", 80)),
        ("[::1]:80", ("::1", 80), ("::1", 81)),
        ("[::1]", ("::1", 81), ("127.0.0.1", 81)),
        ("::1", ("::1", 80), ("::2", 80)),
        ("fd00::/8", ("fd12::1", 80), ("fc12::1", 80)),
        ("[fd00::/8]:443", ("fd12::1", 443), ("fd12::1", 80)),
        ("::ffff:0:0/96", ("::ffff:10.0.0.1", 80), ("10.0.0.1", 80)),
    ],
)
def test_forms_of_rules(text: str, inside: tuple[str, int], outside: tuple[str, int]) -> None:
    """Addresses and networks of both families, with and without a port."""
    rule = AllowRule.parse(text)
    assert rule.holds(ip_address(inside[0]), inside[1])
    assert not rule.holds(ip_address(outside[0]), outside[1])


def test_a_rule_is_a_value() -> None:
    """Rules with the same meaning are equal, so that settings can be compared."""
    assert AllowRule.parse("127.0.0.1:80") == AllowRule(IPv4Network("127.0.0.1/32"), 80)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:80",
        "example.com",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:080808",
        "127.0.0.1:+80",
        "127.0.0.1:http",
        "127.0.0.1 :80",
        " 127.0.0.1",
        "127.1",
        "2130706433",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "[10.0.0.1]:80",
        "[::1]80",
        "[::1",
        "[]:80",
        "fe80::1%eth0",
        "[fe80::1%eth0]:80",
        "１２７.0.0.1",
        "http://127.0.0.1",
        "*",
    ],
)
def test_malformed_rules_are_usage_errors(text: str) -> None:
    """Also names; a mistyped rule never allows something else."""
    with pytest.raises(UsageError, match="not a rule for addresses"):
        AllowRule.parse(text)


def test_a_zone_is_never_allowed() -> None:
    """Rules have no zones."""
    assert refusal(ip_address("fe80::1%eth0"), 80, (AllowRule.parse("fe80::/10"),)) is not None
