"""Clients and handlers hear who watches a panel, where the panel's author allows it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from panels_gateway.access.tokens import Principal, principal_of
from panels_gateway.clients.connection import Connection
from panels_gateway.kernel import presences
from panels_gateway.kernel.residents import Resident
from panels_shared.handlers import DEFAULT_CAPABILITIES, PRESENCE_CAPABILITY
from tests.support.gateway import Call, Gateway, Socket, completed, follow, only

pytestmark = pytest.mark.anyio

CAPABILITIES = [*DEFAULT_CAPABILITIES, PRESENCE_CAPABILITY]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presences, "DELAY_S", 0.0)


def somebody(subject: str | None) -> Principal:
    return principal_of(subject, expires_at=None, grants=None)


async def join(
    gateway: Gateway, resident: Resident, subject: str | None, *topics: str
) -> tuple[Connection, Socket]:
    connection, socket = gateway.connect(resident, topics=only(*topics), principal=somebody(subject))
    await settled(gateway)
    return connection, socket


async def settled(gateway: Gateway) -> None:
    await asyncio.sleep(0.01)
    await gateway.settle()


def told(socket: Socket) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in message.items() if name != "type"}
        for message in socket.heard
        if message["type"] == "PRESENCE"
    ]


async def test_clients_are_told_who_comes_and_who_goes() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", presence=True)
    _, ada = await join(gateway, resident, "ada", "presence")
    # a change that says again what is known does no harm
    assert told(ada)[0] == {"clients": 1, "subjects": {"ada": 1}, "whole": True}
    bob, deaf = await join(gateway, resident, "bob", "state", "events")
    await join(gateway, resident, None, "state")
    assert told(ada)[-2:] == [{"clients": 2, "subjects": {"bob": 1}}, {"clients": 3, "subjects": {}}]
    bob.dismiss("revoked")
    bob.lost()
    await settled(gateway)
    assert told(ada)[-1] == {"clients": 2, "subjects": {"bob": 0}}
    assert told(deaf) == []
    assert resident.panel.seq == 0


async def test_nothing_is_kept_once_everybody_is_gone() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", presence=True)
    connection, _ = await join(gateway, resident, "ada", "presence")
    assert resident.presence is not None
    connection.dismiss("revoked")
    connection.lost()
    await settled(gateway)
    assert resident.presence is None


async def test_client_that_subscribes_is_told_once_who_is_there() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", presence=True)
    connection, socket = await join(gateway, resident, "ada", "state")
    for _ in range(2):
        connection.receive_text(json.dumps({"type": "SUBSCRIBE", "topics": ["presence"], "requestId": "r"}))
        await settled(gateway)
    assert told(socket) == [{"clients": 1, "subjects": {"ada": 1}, "whole": True}]
    connection.receive_text(json.dumps({"type": "UNSUBSCRIBE", "topics": ["presence"], "requestId": "r"}))
    await join(gateway, resident, "bob", "state")
    assert len(told(socket)) == 1


async def test_nobody_is_told_where_the_definition_does_not_say_so() -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    _, socket = await join(gateway, resident, "ada", "presence")
    await join(gateway, resident, "bob", "presence")
    assert told(socket) == []


async def test_handler_is_shown_who_is_there_when_its_tool_may_know() -> None:
    gateway = Gateway()
    scopes: dict[str, Any] = {}

    def respond(call: Call) -> Any:
        scopes[call.tool] = json.loads(call.job.scope)
        return follow(call) if call.args else completed()

    gateway.respond = respond
    tools = [
        {"name": "knows", "handler": "0", "capabilities": CAPABILITIES},
        {"name": "does_not", "handler": "0", "capabilities": DEFAULT_CAPABILITIES},
    ]
    resident = await gateway.add("p", tools=tools)
    await gateway.trigger(resident, tool="knows")
    assert scopes["knows"]["presence"] == {}
    connection, _ = await join(gateway, resident, "ada", "state")
    await join(gateway, resident, "ada", "state")
    await gateway.trigger(resident, tool="knows")
    await gateway.trigger(resident, tool="does_not")
    assert scopes["knows"]["presence"] == {"ada": 2}
    assert "presence" not in scopes["does_not"]
    connection.lost()
    await gateway.trigger(resident, tool="knows")
    assert scopes["knows"]["presence"] == {"ada": 1}
