"""Triggers over HTTP, and the callers who wait for their answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from panels_gateway.http import triggers
from panels_gateway.journal.memory import MemoryJournal
from panels_shared.errors import Code
from panels_shared.outcome import Failed, Reason, Usage
from tests.gateway.http.callers import assert_error, bearer, make_client
from tests.support.gateway import Gateway, completed
from tests.support.waiting import act, asking, only_suspension, reply

pytestmark = pytest.mark.anyio


async def test_trigger_answers_with_the_result(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    response = await client.post("/panels/p/trigger/t", json={"args": {"set": {"n": 2}}})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["type"], body["seq"]) == ("RESULT", 1)
    assert (body["result"]["status"], body["result"]["returnValue"]) == ("success", {"set": {"n": 2}})
    assert (await client.post("/panels/p/trigger/t")).json()["result"]["returnValue"] is None


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"", {}, None),
        (b'{"requestId":"b"}', {"x-request-id": "h"}, "b"),
        (b"{}", {"x-request-id": "h"}, "h"),
    ],
)
async def test_trigger_takes_the_request_id_from_body_or_header(
    client: httpx.AsyncClient, gateway: Gateway, body: bytes, headers: dict[str, str], expected: str | None
) -> None:
    await gateway.add("p")
    response = await client.post("/panels/p/trigger/t", content=body, headers=headers)
    assert response.json().get("requestId") == expected


async def test_trigger_takes_headers_as_utf_8(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await gateway.add("p")
    headers = {b"x-request-id": "é".encode(), b"idempotency-key": "ключ".encode()}
    response = await client.post("/panels/p/trigger/t", headers=headers)
    assert response.json()["requestId"] == "é"
    refused = await client.post("/panels/p/trigger/t", headers={b"idempotency-key": b"caf\xe9"})
    assert assert_error(refused, Code.INVALID_REQUEST) == {"path": "idempotency-key"}


async def test_trigger_answers_a_failure_as_an_error(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.respond = lambda call: Failed(Usage(fuel=3), Reason.TIMEOUT, "no")
    await gateway.add("p")
    details = assert_error(await client.post("/panels/p/trigger/t"), Code.EXECUTION_ERROR)
    assert (details["reason"], details["fuelConsumed"]) == ("TIMEOUT", 3)


async def test_trigger_answers_a_refusal_as_an_error(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.add("p")
    monkeypatch.setattr(gateway.kernel.intake, "backlog_bytes", -1)
    response = await client.post("/panels/p/trigger/t")
    assert assert_error(response, Code.OVERLOADED)["scope"] == "journal"
    assert response.headers["retry-after"] == "1"


async def test_trigger_is_answered_when_its_record_is_durable() -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    async with make_client(gateway) as client:
        adding = asyncio.create_task(gateway.add("p"))
        await gateway.settle()
        gateway.journal.release(gateway.journal.position)
        await adding
        waiting = asyncio.create_task(client.post("/panels/p/trigger/t", json={"args": {"set": {"n": 1}}}))
        await gateway.settle()
        assert gateway.kernel.unanswered == 1
        assert not waiting.done()
        gateway.journal.release(gateway.journal.position)
        assert (await waiting).json()["seq"] == 1


async def test_trigger_under_a_key_runs_once_for_each_subject(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await gateway.add("p", state={"n": 0})
    headers = {**bearer(sub="ann"), "idempotency-key": "k"}
    body = {"args": {"set": {"n": 1}}}
    first = await guarded.post("/panels/p/trigger/t", headers=headers, json=body)
    again = await guarded.post("/panels/p/trigger/t", headers=headers, json=body)
    assert again.json() == first.json()
    assert len(gateway.jobs) == 1
    other = {**headers, **bearer(sub="bob")}
    assert (await guarded.post("/panels/p/trigger/t", headers=other, json=body)).json()["seq"] == 2
    assert_error(await guarded.post("/panels/p/trigger/t", headers=headers, json={"args": 2}), Code.CONFLICT)
    long = {**headers, "idempotency-key": "k" * 129}
    assert_error(await guarded.post("/panels/p/trigger/t", headers=long, json=body), Code.PARSE_ERROR)


async def test_trigger_of_a_caller_that_went_away_still_runs(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.respond = lambda call: None
    resident = await gateway.add("p")
    waiting = asyncio.create_task(client.post("/panels/p/trigger/t"))
    await gateway.settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    gateway.answer_held(completed(None, events={"done": 1}))
    await gateway.settle()
    assert resident.panel.seq == 1


async def test_trigger_of_a_handler_that_waits_long_is_answered_202(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "PATIENCE_S", 0.0)
    gateway.respond = act
    resident = await gateway.add("p")
    body = {"args": asking(), "requestId": "r"}
    response = await client.post("/panels/p/trigger/t", json=body, headers={"idempotency-key": "k"})
    assert response.status_code == 202
    found = response.json()
    assert (found["type"], found["requestId"], found["status"]) == ("PROGRESS", "r", "suspended")
    assert found["suspensionId"] == only_suspension(resident).name
    await reply(gateway, only_suspension(resident), 1)
    again = await client.post("/panels/p/trigger/t", json=body, headers={"idempotency-key": "k"})
    assert again.json()["result"]["returnValue"] == [[1, True, 1]]


async def test_trigger_that_joins_one_that_waits_is_answered_202_as_well(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "PATIENCE_S", 0.0)
    gateway.respond = act
    await gateway.add("p")
    headers = {"idempotency-key": "k"}
    first = await client.post("/panels/p/trigger/t", json={"args": asking()}, headers=headers)
    second = await client.post("/panels/p/trigger/t", json={"args": asking()}, headers=headers)
    assert (second.status_code, second.json()) == (202, first.json())


async def test_trigger_of_a_handler_that_waits_shortly_is_answered_with_the_result(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    gateway.respond = act
    resident = await gateway.add("p")
    waiting = asyncio.create_task(client.post("/panels/p/trigger/t", json={"args": asking(then=asking())}))
    await gateway.settle()
    for value in (1, 2):
        await reply(gateway, only_suspension(resident), value)
    assert (await waiting).json()["result"]["returnValue"] == [[1, True, 1], [2, True, 2]]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"1",
        b'{"arg":1}',
        b'{"requestId":1}',
        b'{"requestId":"' + b"x" * 257 + b'"}',
        b'{"args":NaN}',
        b'{"args":"\\ud800"}',
        b"\xff",
        b'{"args":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
)
async def test_trigger_refuses_a_body(client: httpx.AsyncClient, gateway: Gateway, body: bytes) -> None:
    await gateway.add("p")
    assert_error(await client.post("/panels/p/trigger/t", content=body), Code.PARSE_ERROR)


async def test_trigger_of_an_unknown_panel_is_not_found(client: httpx.AsyncClient) -> None:
    assert_error(await client.post("/panels/none/trigger/inc"), Code.PANEL_NOT_FOUND)


async def test_trigger_of_a_tool_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    await gateway.add("p")
    for tool in ("none", "x" * 129):
        assert_error(await client.post(f"/panels/p/trigger/{tool}"), Code.TOOL_NOT_FOUND)
