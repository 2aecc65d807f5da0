"""Which address a request counts under, and how much an address may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access import addresses
from panels_gateway.access.addresses import UNCLEAR, UNLIMITED, AddressCounts, Addresses, AddressRates
from panels_shared.rate import RateLimit

PROXIES = Addresses(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", value.encode("latin-1")) for value in values]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", UNLIMITED),
        ("::1", UNLIMITED),
        (None, UNLIMITED),
    ],
)
def test_address_of_a_socket(peer: str | None, address: str) -> None:
    assert Addresses().of(peer, []) == address


@given(value=st.text(st.characters(max_codepoint=255)))
def test_stranger_is_never_believed(value: str) -> None:
    headers = [*forwarded(value), (b"forwarded", b"for=" + value.encode("latin-1"))]
    assert PROXIES.of("203.0.113.5", headers) == "203.0.113.5"
    assert Addresses().of("10.0.0.1", headers) == "10.0.0.1"


@given(
    value=st.text(st.characters(max_codepoint=255), max_size=50),
    proxy=st.sampled_from(["10.1.2.3", "::ffff:10.1.2.3"]),
)
def test_client_changes_nothing_by_what_it_writes_further_left(value: str, proxy: str) -> None:
    assert PROXIES.of(proxy, forwarded(value, "198.51.100.7")) == "198.51.100.7"
    assert PROXIES.of(proxy, forwarded(f"{value}, 198.51.100.7 ,10.9.9.9")) == "198.51.100.7"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([], "10.0.0.1"),
        (forwarded("198.51.100.7:1234"), "198.51.100.7"),
        (forwarded("[2001:db8::1]:1234"), "2001:db8::/64"),
        (forwarded("2001:db8::1"), "2001:db8::/64"),
        (forwarded("10.0.0.9, 10.0.0.8"), "10.0.0.9"),
        (forwarded("unknown"), UNCLEAR),
        (forwarded("198.51.100.7, "), UNCLEAR),
        ([(b"forwarded", b'for="[2001:db8::1]:80";proto=https')], "2001:db8::/64"),
        ([(b"forwarded", b"For=192.0.2.1, proto=https; for=198.51.100.7 ;by=x")], "198.51.100.7"),
        ([(b"forwarded", b"for=_hidden")], UNCLEAR),
        ([(b"forwarded", b"proto=https")], UNCLEAR),
        ([*forwarded("198.51.100.7"), (b"forwarded", b"for=198.51.100.7")], "198.51.100.7"),
        ([*forwarded("198.51.100.7"), (b"forwarded", b"for=192.0.2.1")], UNCLEAR),
        (forwarded("127.0.0.1"), UNLIMITED),
    ],
)
def test_what_a_proxy_says(headers: list[tuple[bytes, bytes]], address: str) -> None:
    assert PROXIES.of("10.0.0.1", headers) == address


def test_header_without_end_is_read_in_part() -> None:
    assert PROXIES.of("10.0.0.1", forwarded("10.0.0.2," * 100_000 + "10.0.0.3")) == "10.0.0.2"


def test_sockets_of_proxies_are_told() -> None:
    assert PROXIES.is_trusted("10.0.0.1")
    assert PROXIES.is_trusted("fd00::1")
    assert not PROXIES.is_trusted("203.0.113.5")
    with pytest.raises(ValueError, match="host bits"):
        Addresses(["10.0.0.1/8"])


def test_counts_are_bounded_and_leave_nothing_behind() -> None:
    counts = AddressCounts(2)
    assert [counts.enter("a") for _ in range(3)] == [True, True, False]
    assert counts.enter("b")
    counts.leave("a")
    assert counts.enter("a")
    for address in ("a", "a", "b"):
        counts.leave(address)
    assert len(counts) == 0
    assert all(counts.enter(UNLIMITED) for _ in range(5))
    counts.leave(UNLIMITED)
    assert len(counts) == 0


def test_rates_are_of_each_address() -> None:
    rates = AddressRates(RateLimit(per_s=1.0, burst=2))
    assert [rates.count("a", 0.0) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert rates.wait_s("a", 0.5) == 1.0
    assert rates.wait_s("a", 1.0) == rates.wait_s("b", 0.0) == rates.count("b", 0.0) == 0.0
    assert [rates.count(UNLIMITED, 0.0) for _ in range(9)] == [0.0] * 9
    free = AddressRates(RateLimit(per_s=0.0))
    assert [free.count("a", 0.0) for _ in range(999)] == [0.0] * 999
    assert len(free) == 0


def test_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MAX_REMEMBERED", 2)
    rates = AddressRates(RateLimit(per_s=1.0, burst=1))
    for address in ("a", "b", "a", "c"):
        rates.count(address, 0.0)
    assert len(rates) == 2
    assert rates.wait_s("a", 0.0)
    assert not rates.wait_s("b", 0.0)


def test_peers_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MAX_PEERS", 2)
    found = Addresses(["10.0.0.0/8"])
    for _ in range(2):
        for peer in ("203.0.113.5", "10.0.0.1", "203.0.113.6"):
            assert found.of(peer, []) == peer
            assert found.is_trusted(peer) == (peer == "10.0.0.1")
