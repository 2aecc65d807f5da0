"""Which Host headers a gateway answers to."""

from __future__ import annotations

import pytest

from panels_gateway.access.hosts import HostPolicy, canonical, own_hosts
from panels_shared.errors import Code, RequestError


def allows(policy: HostPolicy, *hosts: bytes) -> bool:
    try:
        policy.check([(b"accept", b"*/*"), *((b"host", host) for host in hosts)])
    except RequestError as exc:
        assert exc.code is Code.FORBIDDEN
        assert "--allowed-hosts" in exc.message
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:3001", b"localhost.", b"127.0.0.1:3001", b"[::1]", b"[0:0:0:0:0:0:0:1]:80"],
)
def test_own_hosts_are_allowed_in_any_spelling_and_at_any_port(host: bytes) -> None:
    assert allows(HostPolicy(own_hosts("127.0.0.1", None)), host)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example:3001",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"127.0.0.2",
        b"",
        b"localhost:3001@evil.example",
        b"localhost:x",
        b"local host",
        b"[::1",
        b"\xff",
    ],
)
def test_other_hosts_are_refused(host: bytes) -> None:
    assert not allows(HostPolicy(own_hosts("127.0.0.1", None)), host)


def test_request_needs_one_host() -> None:
    policy = HostPolicy(own_hosts("127.0.0.1", None))
    assert not allows(policy)
    assert not allows(policy, b"localhost", b"localhost")


def test_own_hosts_are_those_of_the_configuration_too() -> None:
    own = own_hosts("10.0.0.5", "https://Panels.example.org:8443")
    assert own == ("localhost", "127.0.0.1", "[::1]", "10.0.0.5", "panels.example.org")
    assert own_hosts("::1", None) == ("localhost", "127.0.0.1", "[::1]")


def test_list_can_allow_any() -> None:
    assert allows(HostPolicy(None), b"evil.example")
    assert allows(HostPolicy(["*"]))


def test_refusal_says_what_came_and_no_more_than_some_of_it() -> None:
    with pytest.raises(RequestError, match=r"got 'evil\.example'"):
        HostPolicy(["a"]).check([(b"host", b"evil.example")])
    with pytest.raises(RequestError) as caught:
        HostPolicy(["a"]).check([(b"host", b"x" * 5_000)])
    assert len(caught.value.message) < 300
    with pytest.raises(RequestError, match="got none"):
        HostPolicy(["a"]).check([])


def test_canonical_hosts_are_equal_for_one_host() -> None:
    assert canonical("[2001:DB8:0::1]") == canonical("2001:db8::1") == "[2001:db8::1]"
    assert canonical("A.example.") == "a.example"


@pytest.mark.parametrize("host", [b"10.1.2.3:9001", b"[2001:db8::1]:9001", b"localhost"])
def test_addresses_can_be_allowed_all(host: bytes) -> None:
    HostPolicy(("localhost",), addresses=True).check([(b"host", host)])
    with pytest.raises(RequestError, match="allowed-hosts"):
        HostPolicy(("localhost",), addresses=True).check([(b"host", b"page.example:9001")])
