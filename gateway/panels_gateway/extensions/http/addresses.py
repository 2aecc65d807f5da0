"""IP addresses: which are public, and how a host can spell one.

The table is our own: ``ipaddress.is_global`` of Python 3.11.7 calls multicast, 6to4, NAT64 and the
addresses of cloud platforms global. Sources: the IANA special-purpose registries for IPv4 and IPv6 (RFC
6890), RFC 4291, RFC 8215.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_SPECIAL: Final[Sequence[tuple[Network, str]]] = [
    (ip_network(network), name)
    for network, name in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud platform's metadata"),
        ("169.254.0.0/16", "link-local, metadata included"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
]
#: Everything that IANA hands out to hosts of the internet lies in here.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_LOW_32: Final = tuple(
    IPv6Network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_6TO4: Final = IPv6Network("2002::/16")

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


def special(address: Address) -> str | None:
    """Why ``address`` is not one of the public internet; None if it is."""
    for network, name in _SPECIAL:
        if address.version == network.version and address in network:
            return name
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return "not global unicast"
    return None


def embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that packets to ``address`` end up at, when a translator or relay takes them there."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in _LOW_32):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address((int(address) >> 80) & 0xFFFFFFFF)
    return None


def literal(host: str) -> Address | None:
    """The address that ``host`` spells, without brackets; None for a name. Raises ``ValueError``.

    IPv4 is read as the C library's resolver reads it (decimal, octal, hexadecimal, one to four parts),
    and a host whose last part is a number is never a name (WHATWG URL, host parsing), so that no spelling
    is left to the resolver.
    """
    if ":" in host:
        if "%" in host:
            raise ValueError("an address with a zone")
        return ip_address(host)
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        raise ValueError("a host that ends in a number and is no IPv4 address") from None
