"""Which addresses are public, and how hosts spell them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.extensions.http.addresses import embedded, literal, special

REFUSED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "100.128.0.1",
    "192.88.98.1",
    "2606:4700::1111",
    "2a00:1450:4001:80b::200e",
]


@pytest.mark.parametrize("text", REFUSED)
def test_address_is_special(text: str) -> None:
    assert special(ip_address(text)) is not None


@pytest.mark.parametrize("text", PUBLIC)
def test_address_is_public(text: str) -> None:
    assert special(ip_address(text)) is None


@given(address=st.ip_addresses())
def test_address_that_python_calls_private_is_never_public(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert special(address) is not None


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("::ffff:169.254.169.254", "169.254.169.254"),
        ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
        ("2002:7f00:1::", "127.0.0.1"),
        ("::127.0.0.1", "127.0.0.1"),
        ("2606:4700::1111", None),
        ("8.8.8.8", None),
    ],
)
def test_address_holds_another(text: str, inner: str | None) -> None:
    assert embedded(ip_address(text)) == (inner and ip_address(inner))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "00000177.0.0.1",
    ],
)
def test_host_spells_loopback(host: str) -> None:
    assert literal(host) == ip_address("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["1.2.3.4.5", "256.256.256.256", "example.1", "x.0x1", "08.0.0.1", "fe80::1%1", "::g"]
)
def test_host_that_is_neither_name_nor_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        literal(host)


@pytest.mark.parametrize("host", ["example.com", "0xy.com", "1.example", "localhost", "a-1"])
def test_host_is_a_name(host: str) -> None:
    assert literal(host) is None
