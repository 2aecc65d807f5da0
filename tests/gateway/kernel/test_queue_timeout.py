"""Every accepted trigger is answered within a bound, whatever keeps it waiting, and before sockets close."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from panels_gateway.http import triggers
from panels_gateway.panels.trigger import Refused, Succeeded
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import ExtensionCall, Suspended, Usage
from tests.gateway.http.callers import assert_error, make_client
from tests.support.gateway import Caller, Gateway, make_definition
from tests.support.waiting import Ledger, act, asking, only_suspension, reply, restart

pytestmark = pytest.mark.anyio


async def without_workers() -> Gateway:
    """A gateway with the panel p, whose workers have gone."""
    gateway = Gateway()
    await gateway.add("p")
    for peer in list(gateway.dispatcher.peers()):
        gateway.dispatcher.lost(peer, gateway.now_s)
    return gateway


def refusal(caller: Caller) -> Refused:
    (answer,) = caller.answers
    assert isinstance(answer, Refused)
    assert answer.code is Code.UNAVAILABLE
    assert answer.details == {"retryAfterMs": 1_000}
    return answer


async def test_trigger_without_a_worker_is_answered_and_its_key_stays_unused() -> None:
    gateway = await without_workers()
    resident = await gateway.open()
    first = gateway.submit(resident, {"set": {"n": 1}}, key="k")
    joined = gateway.submit(resident, {"set": {"n": 1}}, key="k")
    await gateway.wait(29.0)
    assert (first.answers, joined.answers) == ([], [])
    await gateway.wait(2.0)
    assert "no worker" in refusal(first).message
    assert refusal(joined) == refusal(first)
    gateway.start_workers()
    again = gateway.submit(resident, {"set": {"n": 1}}, key="k")
    await gateway.settle()
    assert isinstance(again.last, Succeeded)


async def test_trigger_behind_an_exclusive_handler_is_answered_and_the_handler_goes_on() -> None:
    gateway = Gateway(respond=act)
    tools = [{"name": "x", "handler": "$args", "exclusive": True}, {"name": "t", "handler": "$args.a"}]
    resident = await gateway.add(tools=tools)
    waiting = gateway.submit(resident, asking(), tool="x")
    await gateway.settle()
    held = gateway.submit(resident, {})
    await gateway.wait(31.0)
    assert "exclusive" in refusal(held).message
    assert waiting.answers == []
    assert gateway.dispatcher.stats()["jobs"] == 0
    await reply(gateway, only_suspension(resident), 1)
    assert isinstance(waiting.last, Succeeded)


async def test_resumption_without_a_worker_waits_for_one() -> None:
    gateway = Gateway(respond=act)
    resident = await gateway.add()
    waiting = gateway.submit(resident, asking())
    await gateway.settle()
    for peer in list(gateway.dispatcher.peers()):
        gateway.dispatcher.lost(peer, gateway.now_s)
    await reply(gateway, only_suspension(resident), 1)
    await gateway.wait(1_000.0)
    assert waiting.answers == []
    gateway.start_workers()
    gateway.request_turn()
    await gateway.settle()
    assert isinstance(waiting.last, Succeeded)


async def test_resumption_without_a_worker_is_left_to_the_next_gateway() -> None:
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    waiting = gateway.submit(resident, asking(then={"set": {"n": 1}}))
    await gateway.settle()
    for peer in list(gateway.dispatcher.peers()):
        gateway.dispatcher.lost(peer, gateway.now_s)
    await reply(gateway, only_suspension(resident), 1)
    assert gateway.kernel.unanswered == 1
    gateway.kernel.close()
    await gateway.settle()
    assert gateway.kernel.unanswered == 0
    assert waiting.answers == []
    following = await restart(gateway)
    await following.settle()
    assert following.state(await following.open()) == {"n": 1}
    assert following.kernel.suspensions.count == 0


async def test_resumption_that_was_sent_is_left_to_the_next_gateway_when_the_grace_is_over() -> None:
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    gateway.submit(resident, asking(then={"set": {"n": 1}}))
    await gateway.settle()
    gateway.respond = lambda call: None
    await reply(gateway, only_suspension(resident), 1)
    gateway.kernel.close()
    await gateway.settle()
    assert gateway.kernel.unanswered == 1
    gateway.kernel.give_up(everything=True)
    await gateway.settle()
    assert gateway.kernel.unanswered == 0
    gateway.respond = act
    following = await restart(gateway)
    await following.settle()
    assert following.state(await following.open()) == {"n": 1}


async def test_handler_that_is_answered_while_the_gateway_stops_does_not_go_on() -> None:
    """A handler that waits again and again would keep the gateway from stopping."""
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    gateway.submit(resident, asking(then={"set": {"n": 1}}))
    await gateway.settle()
    gateway.kernel.close()
    await reply(gateway, only_suspension(resident), 1)
    assert (gateway.kernel.unanswered, len(gateway.jobs)) == (0, 1)
    following = await restart(gateway)
    await following.settle()
    assert following.state(await following.open()) == {"n": 1}


async def test_close_answers_what_no_worker_runs_and_keeps_what_runs() -> None:
    gateway = Gateway(respond=lambda call: None)
    resident = await gateway.add()
    running = gateway.submit(resident)
    await gateway.settle()
    gateway.kernel.close()
    await gateway.settle()
    assert running.answers == []
    gateway.kernel.give_up(everything=True)
    await gateway.settle()
    assert "shutting down" in refusal(running).message
    assert gateway.kernel.unanswered == 0
    gateway.answer_held()
    await gateway.settle()
    assert resident.panel.seq == 0

    gateway = await without_workers()
    stranded = gateway.submit(await gateway.open())
    gateway.kernel.close()
    await gateway.settle()
    assert "shutting down" in refusal(stranded).message


async def test_handler_that_begins_to_wait_while_the_gateway_stops_keeps_nobody_behind_it() -> None:
    gateway = Gateway(respond=lambda call: None)
    tools = [{"name": "x", "handler": "$args", "exclusive": True}, {"name": "t", "handler": "$args.a"}]
    resident = await gateway.add(tools=tools)
    waiting = gateway.submit(resident, tool="x")
    behind = gateway.submit(resident)
    await gateway.settle()
    gateway.kernel.close()
    await gateway.settle()
    call = ExtensionCall(1, "human", "ask", b"[]")
    gateway.answer_held(Suspended(Usage(), (call,), b"image"))
    await gateway.settle()
    assert gateway.kernel.unanswered == 1
    gateway.kernel.give_up(everything=False)
    await gateway.settle()
    assert "shutting down" in refusal(behind).message
    assert waiting.answers == []
    assert gateway.kernel.unanswered == 0


async def test_close_answers_whoever_waits_for_a_handler_to_be_compiled() -> None:
    gateway = Gateway()
    gateway.compiling = False
    making = asyncio.create_task(gateway.kernel.making.create(make_definition("q", "t")))
    await gateway.settle()
    gateway.kernel.close()
    for attempt in (making, gateway.kernel.making.create(make_definition("r", "u"))):
        with pytest.raises(RequestError) as caught:
            await attempt
        assert caught.value.code is Code.UNAVAILABLE


async def test_caller_that_hangs_up_takes_its_trigger_away_unless_it_has_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triggers, "LOOK_AFTER_S", 0.0)
    gateway = await without_workers()
    resident = await gateway.open()
    kept = gateway.submit(resident, key="k")
    dropped = gateway.submit(resident)
    await gateway.settle()
    intake = gateway.kernel.intake
    lane = gateway.dispatcher._fleet.lanes[resident.panel.key]
    for run in list(lane.queue):
        intake.take_away(run.trigger)
    await gateway.settle()
    assert kept.answers == []
    refusal_of_nobody = dropped.answers[0]
    assert isinstance(refusal_of_nobody, Refused)
    assert gateway.dispatcher.stats()["jobs"] == 1


async def test_caller_over_http_is_answered_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "LOOK_AFTER_S", 0.0)
    gateway = await without_workers()
    async with make_client(gateway) as client:
        waiting = asyncio.create_task(client.post("/panels/p/trigger/t"))
        while not gateway.dispatcher.unanswered:  # noqa: ASYNC110 - a request on its way has no event
            await asyncio.sleep(0)
        await gateway.wait(31.0)
        response: httpx.Response = await waiting
    assert assert_error(response, Code.UNAVAILABLE)["retryAfterMs"] == 1_000


async def test_close_tells_a_caller_over_http_that_its_handler_waits() -> None:
    gateway = Gateway(respond=act)
    await gateway.add("p")
    async with make_client(gateway) as client:
        waiting = asyncio.create_task(client.post("/panels/p/trigger/t", json={"args": asking()}))
        while not gateway.kernel.suspensions.count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        await gateway.settle()
        gateway.kernel.close()
        assert (await waiting).status_code == 202
