"""What handlers logged lately, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from panels_shared.errors import Code
from panels_shared.outcome import Failed, LogLine, Outcome, Reason, Usage
from tests.gateway.http.callers import assert_error, grant
from tests.support.gateway import Call, Gateway, completed

pytestmark = pytest.mark.anyio


def talking(call: Call) -> Outcome:
    if call.tool == "u":
        return Failed(Usage(), Reason.FUEL_EXHAUSTED, "too much", 2, 1)
    return msgspec.structs.replace(completed(), log=(LogLine(2, str(call.args)),))


async def get(client: httpx.AsyncClient, **query: str) -> dict[str, Any]:
    response = await client.get("/panels/p/logs", params=query)
    assert response.status_code == 200, response.text
    shown: dict[str, Any] = response.json()
    return shown


async def test_lines_are_shown_from_a_cursor_on(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.respond = talking
    resident = await gateway.add("p")
    empty = await get(client)
    assert (empty["panelId"], empty["lines"]) == ("p", [])
    await gateway.trigger(resident, 1)
    await gateway.trigger(resident, tool="u")
    first, second = (await get(client, after=empty["next"]))["lines"]
    at_ms = int(gateway.wall_s * 1000)
    assert first == {"number": 1, "timestamp": at_ms, "tool": "t", "level": "warn", "text": "1"}
    assert second == {
        "number": 2, "timestamp": at_ms, "tool": "u", "level": "error", "text": "too much",
        "reason": "FUEL_EXHAUSTED", "location": {"line": 2, "column": 1},
    }  # fmt: skip
    page = await get(client)
    assert (await get(client, after=page["next"]))["lines"] == []
    # another run of the gateway counts anew
    assert len((await get(client, after="00000000-2"))["lines"]) == 2


async def test_long_poll_waits_for_a_line_and_not_for_a_commit(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.respond = talking
    resident = await gateway.add("p")
    polling = asyncio.create_task(get(client, live="long-poll"))
    await gateway.settle()
    assert not polling.done()
    await gateway.trigger(resident, "new")
    assert [line["text"] for line in (await polling)["lines"]] == ["new"]
    polling = asyncio.create_task(get(client, live="long-poll", after=(await get(client))["next"]))
    await gateway.settle()
    gateway.kernel.close()
    assert (await polling)["lines"] == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"after": "1"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "x" * 999}, "after"),
        ({"live": "sse"}, "live"),
    ],
)
async def test_query_that_is_none_is_refused(
    client: httpx.AsyncClient, gateway: Gateway, query: dict[str, str], path: str
) -> None:
    await gateway.add("p")
    response = await client.get("/panels/p/logs", params=query)
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == path


async def test_logs_need_manage(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    assert_error(await guarded.get("/panels/p/logs", headers=grant("p", "read")), Code.FORBIDDEN)
    assert (await guarded.get("/panels/p/logs", headers=grant("p", "manage"))).status_code == 200
