"""Tools over HTTP: how quotas and circuit breakers are shown, answered and reset."""

from __future__ import annotations

import httpx
import pytest

from panels_shared.errors import Code
from panels_shared.outcome import Completed, Failed, Reason, Usage
from tests.gateway.http.callers import assert_error, grant
from tests.support.gateway import Call, Gateway

pytestmark = pytest.mark.anyio


async def suspend(gateway: Gateway) -> None:
    gateway.respond = lambda call: Failed(Usage(), Reason.TRAP, "no")
    resident = await gateway.add("p")
    for _ in range(10):
        await gateway.trigger(resident)


async def circuits(
    client: httpx.AsyncClient, headers: dict[str, str] | None = None
) -> list[dict[str, object]]:
    shown = (await client.get("/panels/p", headers=headers)).json()
    return [tool["circuit"] for tool in shown["tools"]]


async def test_suspended_tool_is_shown_refused_and_can_be_reset(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    await suspend(gateway)
    closed = {"state": "closed", "failures": 0, "callers": 0, "openUntil": None}
    until_ms = int((gateway.wall_s + 1) * 1_000)
    suspended = {"state": "open", "failures": 10, "callers": 1, "openUntil": until_ms}
    assert await circuits(client) == [suspended, closed]
    refused = await client.post("/panels/p/trigger/t")
    assert assert_error(refused, Code.CIRCUIT_OPEN) == {"tool": "t", "retryAfterMs": 1_000}
    assert refused.headers["retry-after"] == "1"
    assert (await client.post("/panels/p/tools/t/reset")).status_code == 204
    assert await circuits(client) == [closed, closed]
    text = (await client.get("/metrics")).text
    for line in ("_circuits_open 0", "_circuits_opened_total 1", "_triggers_circuit_open_total 1"):
        assert f"panels{line}\n" in text
    assert_error(await client.post("/panels/p/trigger/t"), Code.EXECUTION_ERROR)
    assert (await circuits(client))[0]["failures"] == 1


async def test_reset_wants_manage_and_a_tool_that_is_there(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await suspend(gateway)
    path = "/panels/p/tools/t/reset"
    assert_error(await guarded.post(path), Code.UNAUTHORIZED)
    assert_error(await guarded.post(path, headers=grant("p", "read", "trigger:*")), Code.FORBIDDEN)
    manager = grant("p", "manage")
    assert_error(await guarded.post("/panels/p/tools/none/reset", headers=manager), Code.TOOL_NOT_FOUND)
    assert_error(await guarded.post("/panels/q/tools/t/reset", headers=manager), Code.PANEL_NOT_FOUND)
    assert (await guarded.post(path, headers=manager)).status_code == 204


async def test_quota_is_shown_and_one_that_is_used_up_says_when_to_try_again(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    tool = {"name": "t", "handler": "1", "quota": {"timeMs": 1, "windowS": 10}}
    made = {"id": "p", "kind": "k", "tools": [tool], "quota": {"fuel": 10**6}}
    assert (await client.post("/panels", json=made)).status_code == 201
    shown = (await client.get("/panels/p")).json()
    assert shown["quota"] == {"fuel": 10**6, "timeMs": None, "windowS": 60.0}
    assert shown["tools"][0]["quota"] == {"fuel": None, "timeMs": 1, "windowS": 10.0}

    def busy(call: Call) -> Completed:
        gateway.now_s += 0.0013
        return Completed(Usage(fuel=5, execution_us=1_300))

    gateway.respond = busy
    assert (await client.post("/panels/p/trigger/t")).status_code == 200
    refused = await client.post("/panels/p/trigger/t")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3"
    details = assert_error(refused, Code.QUOTA_EXCEEDED)
    assert 2_990 <= details.pop("retryAfterMs") <= 3_001
    assert details == {"quota": "tool", "resource": "time", "limit": 1, "windowS": 10.0}
    text = (await client.get("/metrics")).text
    assert 'panels_triggers_over_quota_total{quota="tool_time"} 1' in text
    assert "panels_fuel_total 5" in text
    assert "panels_execution_seconds_total 0.0013" in text
