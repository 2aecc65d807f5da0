"""Waiting for workers to compile: each handler is asked for once, refusals reach the author, and nobody waits
for ever.
"""

from __future__ import annotations

import asyncio

import pytest

from panels_gateway.dispatch.compile_queue import CompileLimits
from panels_gateway.dispatch.limits import DispatchLimits
from panels_gateway.kernel import preparer as module
from panels_gateway.kernel.preparer import refused
from panels_shared.errors import Code, RequestError
from panels_shared.messages import Refusal
from tests.support.gateway import Gateway, make_definition

pytestmark = pytest.mark.anyio


async def test_prepare_asks_once_for_each_handler_and_not_again() -> None:
    gateway = Gateway()
    for _ in range(2):
        await gateway.kernel.preparer.prepare(make_definition("p", "t", "u"))
    assert len(gateway.prepares) == 2


async def test_prepare_of_the_same_handler_is_answered_to_all_who_wait() -> None:
    gateway = Gateway()
    gateway.compiling = False
    preparer = gateway.kernel.preparer
    waiting = [asyncio.create_task(preparer.prepare(make_definition("p", "t"))) for _ in range(3)]
    await gateway.settle()
    assert len(gateway.prepares) == 1
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    gateway.compile_held()
    await asyncio.gather(*waiting[1:])


async def test_prepare_names_the_tool_that_is_refused_now_and_later() -> None:
    gateway = Gateway()
    made = make_definition("p", "t", "u")
    gateway.refusals[made.tools[1].handler.digest] = Refusal("syntax", "expected a brace", 3, 4)
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            await gateway.kernel.preparer.prepare(made)
        assert caught.value.code is Code.INVALID_HANDLER
        details = caught.value.details
        assert details is not None
        assert (details["tool"], details["reason"], details["line"]) == ("u", "syntax", 3)


async def test_prepare_with_two_tools_of_one_handler_waits_once() -> None:
    gateway = Gateway()
    tools = [{"name": name, "handler": "$args"} for name in ("a", "b")]
    await gateway.kernel.preparer.prepare(make_definition("p", tools=tools))
    assert len(gateway.prepares) == 1


async def test_prepare_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREPARE_TIMEOUT_S", 0.0)
    gateway = Gateway()
    gateway.compiling = False
    with pytest.raises(RequestError) as caught:
        await gateway.kernel.preparer.prepare(make_definition("p", "t"))
    assert caught.value.code is Code.UNAVAILABLE
    gateway.kernel.preparer.prepared(b"unknown", None)
    await gateway.settle()
    gateway.compile_held()
    await gateway.settle()


async def test_prepare_without_workers_is_unavailable_in_the_end() -> None:
    gateway = Gateway(workers=False)
    preparing = asyncio.create_task(gateway.kernel.preparer.prepare(make_definition("p", "t")))
    await gateway.settle()
    gateway.now_s += 60.0
    gateway.dispatcher.tick(gateway.now_s)
    gateway.request_turn()
    with pytest.raises(RequestError) as caught:
        await preparing
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.details == {"retryAfterMs": 1_000}


def test_refusal_without_a_place_names_none() -> None:
    error = refused("t", Refusal("imports", "no such import"))
    assert error.details == {"tool": "t", "reason": "imports"}


async def test_first_refusal_ends_the_definition_and_what_nobody_else_waits_for() -> None:
    gateway = Gateway()
    gateway.compiling = False
    preparer = gateway.kernel.preparer
    made = make_definition("p", *"abcdefgh")
    waiting = asyncio.create_task(preparer.prepare(made, subject="ann"))
    await gateway.settle()
    joined = asyncio.create_task(preparer.prepare(make_definition("q", "h"), subject="bob"))
    await gateway.settle()
    first = gateway.prepares[0]
    gateway.refusals[first.digest] = Refusal("too_costly", "too much")
    gateway.compile_held()
    with pytest.raises(RequestError) as caught:
        await waiting
    assert caught.value.code is Code.INVALID_HANDLER
    await gateway.settle()
    while not joined.done():
        gateway.prepares, held = [], gateway.prepares
        for message in held:
            gateway._compile(message)
        await gateway.settle()
    await joined
    asked = len(gateway.prepares)
    await gateway.settle()
    assert len(gateway.prepares) == asked
    assert not gateway.dispatcher.preparations._wanted


async def test_prepare_above_the_budget_is_a_quota() -> None:
    gateway = Gateway(dispatch=DispatchLimits(compile=CompileLimits(seconds=1.0, window_s=60.0)))
    gateway.dispatcher.preparations._queue.charge("ann", 2.0, gateway.now_s)
    with pytest.raises(RequestError) as caught:
        await gateway.kernel.preparer.prepare(make_definition("p", "t"), subject="ann")
    assert caught.value.code is Code.QUOTA_EXCEEDED
    details = caught.value.details
    assert details is not None
    assert details["quota"] == "compile"
    assert details["retryAfterMs"] == 120_000
    await gateway.kernel.preparer.prepare(make_definition("p", "t"), subject="bob")
