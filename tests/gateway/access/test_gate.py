"""The gate's limits for addresses, and how they are changed while it stands."""

from __future__ import annotations

from typing import Any

import pytest

from panels_gateway.access.credentials import OriginPolicy
from panels_gateway.access.gate import AddressLimits, Gate
from panels_gateway.access.hosts import HostPolicy
from panels_shared.errors import Code, RequestError
from panels_shared.rate import RateLimit

ONE = RateLimit(per_s=0.001, burst=1)
TWO = RateLimit(per_s=0.001, burst=2)


def scope(host: bytes = b"a.example", address: str = "192.0.2.1") -> dict[str, Any]:
    return {"headers": [(b"host", host)], "client": (address, 1)}


def opened(gate: Gate, **of: Any) -> dict[str, Any]:
    request = scope(**of)
    gate.open(request)
    return request


def made(limit: RateLimit) -> tuple[Gate, list[str]]:
    refused: list[str] = []
    gate = Gate(
        None,
        HostPolicy(["a.example"]),
        OriginPolicy((), own=()),
        conceals=False,
        limits=AddressLimits(upgrades=limit, failures=limit),
        on_refused=refused.append,
        clock=lambda: 0.0,
    )
    return gate, refused


def upgrades(gate: Gate, address: str = "192.0.2.1") -> int:
    """How many upgrades of the address are let in before one is refused."""
    for count in range(10):
        try:
            gate.check_upgrade_rate(opened(gate, address=address))
        except RequestError as error:
            assert error.code is Code.RATE_LIMITED
            return count
    raise AssertionError("expected a refusal")


def test_each_address_has_its_own_upgrades() -> None:
    gate, refused = made(TWO)
    assert [upgrades(gate), upgrades(gate, "192.0.2.2"), upgrades(gate)] == [2, 2, 0]
    assert len(refused) == 3


def test_limit_that_is_another_one_begins_anew_and_the_same_goes_on() -> None:
    gate, _ = made(ONE)
    assert upgrades(gate) == 1
    gate.change(HostPolicy(["a.example"]), upgrades=ONE, failures=TWO)
    assert upgrades(gate) == 0
    gate.change(HostPolicy(["a.example"]), upgrades=TWO, failures=TWO)
    assert upgrades(gate) == 2


def test_hosts_are_those_of_the_last_change() -> None:
    gate, refused = made(ONE)
    gate.check_host(opened(gate))
    gate.change(HostPolicy(["b.example"]), upgrades=ONE, failures=ONE)
    with pytest.raises(RequestError, match=r"a\.example"):
        gate.check_host(opened(gate))
    gate.check_host(opened(gate, host=b"b.example"))
    assert len(refused) == 1
