"""Which IP addresses a stranger's URL may reach: public ones, and those that an operator allows.

The tables follow IANA's registries of special-purpose addresses. They are written out because `ipaddress`'s `is_global`
differs between patch releases of Python; it has to be true as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from poorwill.errors import UsageError

Address = IPv4Address | IPv6Address

PORT_MAX = 65_535

_SPECIAL = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an address of this host itself"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier's internal address"),
        ("127.0.0.0/8", "a loopback address"),
        ("168.63.129.16/32", "an address at which a cloud serves metadata"),  # Azure's WireServer
        ("169.254.0.0/16", "a link-local address"),  # with the metadata service of most clouds
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "an address set aside for protocols"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "an address of a 6to4 relay"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "the unspecified address"),
        ("::1/128", "a loopback address"),
        ("::/96", "an IPv4-compatible address"),
        ("64:ff9b:1::/48", "an address of a local NAT64"),
        ("2001::/32", "a Teredo address"),
        ("2001::/23", "an address set aside for protocols"),
        ("2001:db8::/32", "an address for documentation"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "an address for documentation"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # RFC 5214: the first half of the interface's 64 bits
_RULE = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:./]+)\]|(?P<v4>[0-9./]+))(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9A-Fa-f:./]+)"
)


@dataclass(frozen=True, slots=True)
class AllowRule:
    """An operator's permission to reach a network; `port` None means every port."""

    network: IPv4Network | IPv6Network
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> AllowRule:
        """A rule such as `127.0.0.1:8123`, `10.0.0.0/8`, `10.1.0.0/16:443`, `fd00::/8`, `[::1]:80`, `[fd00::/8]:443`.

        UsageError for anything else, such as a host's name, whose addresses are its owner's to change.
        """
        found = _RULE.fullmatch(text)
        fault = "expected an IP address or network, with or without a port, as 127.0.0.1:8123 or [fd00::/8]:443"
        if found is None:
            raise UsageError(f"{text[:80]!a} is not a rule for addresses: {fault}")
        port = None if found["port"] is None else int(found["port"])
        try:
            network = ip_network(found["v6"] or found["v4"] or found["bare"])
        except ValueError as error:
            raise UsageError(f"{text[:80]!a} is not a rule for addresses: {error}") from None
        if port == 0 or (port or 0) > PORT_MAX or (found["v6"] and network.version == 4):
            raise UsageError(f"{text[:80]!a} is not a rule for addresses: {fault}")
        return cls(network, port)

    def holds(self, address: Address, port: int) -> bool:
        """Whether the rule allows this address and port. A rule for IPv4 allows the v4-mapped form as well."""
        if self.port not in (None, port):
            return False
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return address in self.network or (mapped is not None and mapped in self.network)


def refusal(address: Address, port: int, allow: Iterable[AllowRule] = ()) -> str | None:
    """Why this address may not be reached, such as "a private address"; None if it may.

    It may if it is public or a rule allows it. A v4-mapped or NAT64 address (RFC 6052's 64:ff9b::/96) is judged by the
    IPv4 address in it, an ISATAP address by both. 6to4, Teredo, IPv4-compatible and local NAT64 addresses are refused
    whatever they hold: a relay decides where they lead. A NAT64 prefix of a network's own looks like any other address:
    such a network has to filter at its translator.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "an address with a zone"
    if any(rule.holds(address, port) for rule in allow):
        return None
    return _fault(address)


def _fault(address: Address) -> str | None:
    within: IPv4Address | None = None  # an IPv4 address that an IPv6 address leads to
    if isinstance(address, IPv6Address):
        last_ipv4 = IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.ipv4_mapped is not None or address in _NAT64:
            return _fault(address.ipv4_mapped or last_ipv4)
        if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
            within = last_ipv4
    for network, what in _SPECIAL:
        if address in network:
            return what
    if not address.is_global or (address.version == 6 and address not in _GLOBAL_UNICAST):
        return "not a public address"
    return None if within is None else _fault(within)
