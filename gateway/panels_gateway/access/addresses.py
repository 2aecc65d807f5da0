"""Which address a request comes from, and how much of one address is taken. Pure.

An address is that of the socket. Only where the socket is a trusted proxy's is it what the proxy says in
``X-Forwarded-For`` or ``Forwarded``: read from the right, past trusted proxies, the first that is not one.
Whatever stands further left was written by the client. A client can also write the header that its proxy does
not; where the two headers do not agree, or cannot be read, the request counts under one address that all such
requests share.

Addresses of IPv6 count by their /64, since each client has one to choose from. Loopback addresses are not
limited (``UNLIMITED``): they are this machine's own programs, or a proxy that nobody has named.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from panels_shared.rate import RateLimit, TokenBucket

#: The address of requests that are not limited by address.
UNLIMITED: Final = ""
#: The address of requests whose proxies contradict each other, or say what is no address.
UNCLEAR: Final = "?"

#: Proxies that are looked past, and characters of a header that are looked at; security limits.
MAX_HOPS: Final = 16
MAX_HEADER_CHARS: Final = 2_048
#: Addresses whose rates are remembered; the one that was not seen for longest is forgotten first.
MAX_REMEMBERED: Final = 16_384
#: Addresses of sockets that need not be parsed again.
MAX_PEERS: Final = 4_096

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^;\s]*))\s*(?=;|$)', re.IGNORECASE)
_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}")


class Addresses:
    """Tells the address of a request. ``trusted`` are the networks of proxies, such as ``10.0.0.0/8``."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        """Raises ``ValueError`` for what is no network."""
        self._trusted: tuple[_Network, ...] = tuple(ipaddress.ip_network(text) for text in trusted)
        self._peers: dict[str, tuple[str, bool]] = {}

    def is_trusted(self, peer: str) -> bool:
        """Whether the socket of ``peer`` is a proxy's."""
        return self._peer(peer)[1]

    def _peer(self, peer: str) -> tuple[str, bool]:
        """What a socket counts under, and whether it is a proxy's. Parsing costs more than all else, so the
        last ``MAX_PEERS`` or so are remembered.
        """
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                self._peers.clear()
            address = _parse(peer)
            known = (UNLIMITED, False) if address is None else (_key(address), self._trusts(address))
            self._peers[peer] = known
        return known

    def of(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """What a request of the socket of ``peer`` counts under; None is a socket without an address."""
        if peer is None:
            return UNLIMITED
        key, trusted = self._peer(peer)
        if not trusted:
            return key
        said: list[str] = []
        for name in (b"x-forwarded-for", b"forwarded"):
            values = [value.decode("latin-1") for header, value in headers if header == name]
            if values:
                hops = ",".join(values)[-MAX_HEADER_CHARS:].split(",")
                if name == b"forwarded":
                    hops = [_forwarded_for(hop) for hop in hops]
                said.append(self._client(hops))
        if not said:
            return key
        return said[0] if len(set(said)) == 1 else UNCLEAR

    def _client(self, hops: list[str]) -> str:
        address: _Address | None = None
        for hop in hops[: -MAX_HOPS - 1 : -1]:
            address = _parse(hop.strip())
            if address is None or not self._trusts(address):
                break
        return UNCLEAR if address is None else _key(address)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _forwarded_for(hop: str) -> str:
    found = _FOR.search(hop.strip())
    return "" if found is None else found[1] if found[1] is not None else found[2]


def _parse(text: str) -> _Address | None:
    with_port = _PORT.fullmatch(text)
    if with_port is not None:
        text = with_port[1]
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _key(address: _Address) -> str:
    if address.is_loopback:
        return UNLIMITED
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


class AddressCounts:
    """How many of something each address has, at most ``maximum``. It has an entry for each address that has
    one, so it is bounded by the number of all.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._counts: dict[str, int] = {}

    def enter(self, address: str) -> bool:
        """One more, unless the address has all that it may."""
        if address == UNLIMITED:
            return True
        count = self._counts.get(address, 0)
        if count >= self.maximum:
            return False
        self._counts[address] = count + 1
        return True

    def leave(self, address: str) -> None:
        """One less of what has entered."""
        if address == UNLIMITED:
            return
        count = self._counts[address] - 1
        if count:
            self._counts[address] = count
        else:
            del self._counts[address]

    def __len__(self) -> int:
        return len(self._counts)


class AddressRates:
    """How often something may happen from each address.

    At most ``MAX_REMEMBERED`` addresses are remembered; one that was forgotten begins anew.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """How long the address has to wait; 0 if it need not."""
        if address == UNLIMITED or not self._limit.per_s:
            return 0.0
        bucket = self._buckets.get(address)
        if bucket is None:
            return 0.0
        bucket.refill(now_s)
        return 0.0 if bucket.has(1.0) else 1.0 / self._limit.per_s

    def count(self, address: str, now_s: float) -> float:
        """It happens: returns 0, or how long the address has to wait, and then it does not happen."""
        if address == UNLIMITED or not self._limit.per_s:
            return 0.0
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = TokenBucket(self._limit, now_s)
            if len(self._buckets) > MAX_REMEMBERED:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        return bucket.take(now_s)

    def __len__(self) -> int:
        return len(self._buckets)
