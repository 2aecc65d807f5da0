"""Exclusive tools: what stands behind a handler that waits, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.journal.journal import Waiting
from panels_gateway.panels.trigger import Refused, Succeeded
from panels_shared.errors import Code
from panels_shared.outcome import ExtensionCall, Reason, Suspended, Usage
from tests.support.gateway import Gateway
from tests.support.waiting import (
    Ledger,
    act,
    asking,
    failed,
    got,
    only_suspension,
    replace,
    reply,
    restart,
    time_of,
    tool,
)

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway(Ledger(), act)
    with time_of(made):
        yield made


# -- exclusive tools ---------------------------------------------------------------------------------


async def test_exclusive_tool_holds_the_queue_and_releases_it_in_order(gateway: Gateway) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    caller = gateway.submit(resident, asking(then={"set": {"n": 0}}))
    others = [gateway.submit(resident, {"set": {"n": n}}, tool="u") for n in (1, 2)]
    await gateway.settle()
    others.append(gateway.submit(resident, {"set": {"n": 3}}, tool="u"))
    await gateway.settle()
    assert [other.answers for other in others] == [[], [], []]
    _, socket = gateway.connect(resident)
    await reply(gateway, only_suspension(resident), 1)
    assert got(caller.last) == [[1, True, 1]]
    await gateway.settle()
    assert socket.words == ["CONNECTED 1", "PATCH 2", "PATCH 3", "PATCH 4", "PATCH 5"]
    assert gateway.state(resident) == {"n": 3}
    assert [other.last.seq for other in others if isinstance(other.last, Succeeded)] == [3, 4, 5]


async def test_exclusive_tool_takes_back_what_was_about_to_go_on(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    other = gateway.submit(resident, asking(), tool="u")
    await gateway.settle()
    waits = only_suspension(resident)
    may_read = asyncio.Event()
    read = gateway.journal.waiting

    async def slow(panel: int, number: int) -> Waiting | None:
        await may_read.wait()
        return await read(panel, number)

    monkeypatch.setattr(gateway.journal, "waiting", slow)
    await reply(gateway, waits, "u")
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    assert resident.holder is not None
    may_read.set()
    await gateway.settle()
    assert other.answers == []
    await reply(gateway, resident.holder, "t")
    assert got(caller.last) == [[1, True, "t"]]
    assert got(other.last) == [[1, True, "u"]]


async def test_exclusive_tool_and_a_resumption_in_the_queue(gateway: Gateway) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    other = gateway.submit(resident, asking(), tool="u")
    await gateway.settle()
    waits = only_suspension(resident)
    gateway.respond = lambda call: None if not call.answers and call.tool == "t" else act(call)
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    gateway.respond = lambda call: None
    gateway.kernel.calls.answer(waits, None, b'"u"')
    await gateway.settle()
    kept = {"open": [1], "got": [], "next": 2, "then": {}, "race": False}
    call = ExtensionCall(1, "human", "ask", b"[]")
    gateway.answer_held(Suspended(Usage(), (call,), json.dumps(kept).encode()))
    gateway.respond = act
    await gateway.settle()
    assert other.answers == []
    assert resident.holder is not None
    await reply(gateway, resident.holder, "t")
    assert got(caller.last) == [[1, True, "t"]]
    assert got(other.last) == [[1, True, "u"]]


async def test_exclusive_tool_s_queue_is_bounded() -> None:
    gateway = Gateway(Ledger(), act, dispatch=DispatchLimits(queue_per_panel=2))
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    gateway.submit(resident, asking())
    await gateway.settle()
    others = [gateway.submit(resident, {}, tool="u") for _ in range(3)]
    assert isinstance(others[2].last, Refused)
    assert others[2].last.code is Code.OVERLOADED


async def test_triggers_behind_an_exclusive_tool_count_towards_the_queue_s_bounds() -> None:
    gateway = Gateway(Ledger(), act, dispatch=DispatchLimits(queue_bytes=2_000))
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    other = await gateway.add("q")
    gateway.submit(resident, asking())
    await gateway.settle()
    behind = [gateway.submit(resident, {"pad": "x" * 800}, tool="u") for _ in range(3)]
    await gateway.settle()
    assert [len(caller.answers) for caller in behind] == [0, 0, 1]
    assert isinstance(behind[2].last, Refused)
    assert behind[2].last.code is Code.OVERLOADED
    assert isinstance(await gateway.trigger(other, {"pad": "x" * 800}), Refused)
    assert gateway.kernel.unanswered == 0, "a gateway that ends does not wait for them"
    await reply(gateway, only_suspension(resident), 1)
    assert [type(caller.last) for caller in behind] == [Succeeded, Succeeded, Refused]
    assert isinstance(await gateway.trigger(other, {"pad": "x" * 1_800}), Succeeded)


async def test_exclusive_tool_is_replaced_while_others_stand_behind_it(gateway: Gateway) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u"), tool("v")])
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    stays, goes = (gateway.submit(resident, {}, tool=name) for name in "uv")
    await replace(gateway, tool("t", "/* new */ 1"), tool("u"))
    assert failed(caller.last) == (Reason.RESUME_FAILED, 1)
    assert isinstance(stays.last, Succeeded)
    assert isinstance(goes.last, Refused)
    assert goes.last.code is Code.TOOL_NOT_FOUND
    assert resident.holder is None


async def test_exclusive_tool_s_panel_is_deleted_while_others_stand_behind_it(gateway: Gateway) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    callers = [gateway.submit(resident, asking()), gateway.submit(resident, {}, tool="u")]
    await gateway.settle()
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert [type(caller.last) for caller in callers] == [Refused, Refused]


async def test_exclusive_tool_holds_the_queue_after_a_restart(gateway: Gateway) -> None:
    resident = await gateway.add("p", tools=[tool("t", exclusive=True), tool("u")])
    gateway.submit(resident, asking())
    await gateway.settle()
    following = await restart(gateway)
    resident = await following.open()
    other = following.submit(resident, {}, tool="u")
    await following.settle()
    assert other.answers == []
    await reply(following, only_suspension(resident), 1)
    assert isinstance(other.last, Succeeded)
