"""Handlers that wait, over HTTP: who sees them, who may answer and cancel, and what is refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from panels_gateway.broadcast import messages
from panels_gateway.panels.trigger import Failure
from panels_shared.errors import Code
from panels_shared.outcome import Reason
from tests.gateway.http.callers import assert_error, bearer, grant
from tests.support.gateway import Caller, Gateway
from tests.support.waiting import APPROVE, ASK, act, asking, only_suspension

pytestmark = pytest.mark.anyio


async def park(gateway: Gateway, *calls: tuple[str, str, list[Any]]) -> tuple[str, Caller]:
    """A handler that waits: where it is, and who waits for its answer."""
    gateway.respond = act
    resident = await gateway.add("p")
    caller = gateway.submit(resident, asking(*calls), name="r")
    await gateway.settle()
    return f"/panels/p/suspensions/{only_suspension(resident).name}", caller


async def test_suspensions_are_listed_with_what_they_wait_for(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    path, _ = await park(gateway, APPROVE, ASK)
    listed = (await client.get("/panels/p/suspensions")).json()
    (shown,) = listed["suspensions"]
    assert listed["imageBytes"] == shown["imageBytes"] > 0
    assert listed["panelId"] == "p"
    assert path.endswith(shown["id"])
    assert (shown["tool"], shown["requestId"], shown["steps"]) == ("t", "r", 1)
    assert shown["deadline"] - shown["since"] == 7 * 24 * 3_600 * 1_000
    assert shown["waitsFor"] == [
        {"call": 1, "extension": "human", "method": "approve", "args": ["this?"]},
        {"call": 2, "extension": "human", "method": "ask", "args": ["what?"]},
    ]
    assert (await client.get(path)).json() == shown


async def test_answer_counts_once(client: httpx.AsyncClient, gateway: Gateway) -> None:
    path, caller = await park(gateway, APPROVE, ASK)
    assert (await client.post(f"{path}/answer", json={"value": True, "call": 1})).status_code == 204
    await gateway.settle()
    details = assert_error(
        await client.post(f"{path}/answer", json={"value": False, "call": 1}), Code.CONFLICT
    )
    assert details["open"] == [2]
    assert (await client.get(path)).json()["waitsFor"][0]["call"] == 2
    assert (await client.post(f"{path}/answer", json={"value": None})).status_code == 204
    await gateway.settle()
    assert len(caller.answers) == 1
    assert_error(await client.post(f"{path}/answer", json={"value": 1}), Code.NOT_FOUND)
    assert (await client.get("/panels/p/suspensions")).json()["suspensions"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.PARSE_ERROR),
        (b"{}", Code.PARSE_ERROR),
        (b"[1]", Code.PARSE_ERROR),
        (b'{"value":1,"call":"1"}', Code.PARSE_ERROR),
        (b'{"value":1,"more":1}', Code.PARSE_ERROR),
        (b'{"value":NaN}', Code.PARSE_ERROR),
        (b'{"value":"\xff"}', Code.PARSE_ERROR),
        (b'{"value":"yes"}', Code.INVALID_REQUEST),
        (b'{"value":true,"call":2}', Code.CONFLICT),
        (b'{"value":"' + b"x" * messages.MAX_ANSWER_BYTES + b'"}', Code.TOO_LARGE),
    ],
)
async def test_answer_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, gateway: Gateway, body: bytes, code: Code
) -> None:
    path, caller = await park(gateway, APPROVE)
    assert_error(await client.post(f"{path}/answer", content=body), code)
    await gateway.settle()
    assert caller.answers == []


async def test_answer_wants_its_permission(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    path, caller = await park(gateway, ASK)
    body = {"value": 1}
    for headers in (grant("p", "read", "trigger:*", "manage"), grant("p", "read", "answer:other")):
        assert_error(await guarded.post(f"{path}/answer", json=body, headers=headers), Code.FORBIDDEN)
    assert caller.answers == []
    allowed = grant("p", "read", "answer:t")
    assert (await guarded.post(f"{path}/answer", json=body, headers=allowed)).status_code == 204
    await gateway.settle()
    assert len(caller.answers) == 1


async def test_cancelling_answers_the_trigger(client: httpx.AsyncClient, gateway: Gateway) -> None:
    path, caller = await park(gateway)
    assert (await client.delete(path)).status_code == 204
    assert isinstance(caller.last, Failure)
    assert caller.last.outcome.reason is Reason.CANCELLED
    assert_error(await client.delete(path), Code.NOT_FOUND)


async def test_cancelling_wants_to_manage(guarded: httpx.AsyncClient, gateway: Gateway) -> None:
    path, caller = await park(gateway)
    for headers in (grant("p", "read", "answer:*"), bearer(panels=[])):
        assert (await guarded.delete(path, headers=headers)).status_code in (403, 404)
    assert caller.answers == []


@pytest.mark.parametrize("name", ["000000000001", "1", "00000000000G", "0" * 13, "٠" * 12])
async def test_suspension_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, gateway: Gateway, name: str
) -> None:
    await park(gateway)
    assert_error(await client.get(f"/panels/p/suspensions/{name}"), Code.NOT_FOUND)
