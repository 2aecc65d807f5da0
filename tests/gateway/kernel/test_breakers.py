"""Circuit breakers in a gateway: which failures count, who is refused, and how a tool is let back."""

from __future__ import annotations

import logging

import pytest

from panels_gateway.access.tokens import ANONYMOUS, principal_of
from panels_gateway.kernel import breakers
from panels_gateway.kernel.breakers import COUNTED
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.breaker import BreakerLimits
from panels_gateway.panels.trigger import Answer, Failure, Refused, Succeeded
from panels_shared.errors import Code
from panels_shared.outcome import Failed, Outcome, Reason, Usage
from tests.support.gateway import Call, Caller, Gateway, follow, make_definition
from tests.support.waiting import ASK, act, asking, only_suspension

pytestmark = pytest.mark.anyio


def failing(reason: Reason) -> Gateway:
    """A gateway whose tool ``t`` fails like that; the other one works."""

    def respond(call: Call) -> Outcome:
        return Failed(Usage(fuel=1), reason, "no") if call.tool == "t" else follow(call)

    limits = KernelLimits(breakers=BreakerLimits(failures=3, backoff_s=1.0, max_backoff_s=4.0))
    return Gateway(respond=respond, limits=limits)


async def fail(gateway: Gateway, resident: Resident, times: int = 3) -> None:
    for _ in range(times):
        assert isinstance(await gateway.trigger(resident), Failure)


def is_refused(answer: Answer) -> bool:
    return isinstance(answer, Refused) and answer.code is Code.CIRCUIT_OPEN


@pytest.mark.parametrize("reason", list(Reason))
async def test_only_failures_that_a_handler_does_not_end_by_itself_suspend_its_tool(reason: Reason) -> None:
    gateway = failing(reason)
    resident = await gateway.add()
    await fail(gateway, resident)
    assert is_refused(await gateway.trigger(resident)) == (reason in COUNTED)


async def test_suspended_tool_is_refused_at_once_and_its_neighbours_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = failing(Reason.TRAP)
    resident, other = await gateway.add("p"), await gateway.add("q")
    with caplog.at_level(logging.INFO):
        await fail(gateway, resident)
    assert "tool 't' is suspended for a caller: it failed 3 times in a row, at last with TRAP" in caplog.text
    jobs = len(gateway.jobs)
    gateway.now_s += 0.25
    answer = gateway.submit(resident).last
    assert isinstance(answer, Refused)
    assert answer.details == {"tool": "t", "retryAfterMs": 750}
    assert len(gateway.jobs) == jobs
    assert isinstance(await gateway.trigger(resident, tool="u"), Succeeded)
    assert isinstance(await gateway.trigger(other), Failure), "the same tool of another panel"
    counters = gateway.kernel.counters
    assert (counters.circuits_opened, counters.circuit_refused) == (1, 1)


async def test_success_or_an_exception_begins_the_count_anew() -> None:
    gateway = failing(Reason.TIMEOUT)
    resident = await gateway.add()
    respond = gateway.respond
    for healthy in (follow, lambda call: Failed(Usage(), Reason.HANDLER_ERROR, "mine")):
        await fail(gateway, resident, 2)
        gateway.respond = healthy
        await gateway.trigger(resident)
        gateway.respond = respond
    await fail(gateway, resident, 2)
    (breaker,) = resident.breakers["t"].values()
    assert not breaker.is_open


async def test_probe_that_succeeds_lets_everything_through_again(caplog: pytest.LogCaptureFixture) -> None:
    gateway = failing(Reason.TRAP)
    resident = await gateway.add()
    await fail(gateway, resident)
    gateway.now_s += 1
    await fail(gateway, resident, 1)
    gateway.now_s += 1.5
    assert is_refused(await gateway.trigger(resident)), "it is suspended for twice as long"
    gateway.respond = follow
    gateway.now_s += 0.5
    with caplog.at_level(logging.INFO):
        assert isinstance(await gateway.trigger(resident), Succeeded)
    assert "is not suspended any more" in caplog.text
    assert isinstance(await gateway.trigger(resident), Succeeded)
    assert resident.breakers == {}


async def test_triggers_that_wait_for_a_suspended_tool_are_refused_and_the_others_run_in_order() -> None:
    gateway = failing(Reason.TRAP)
    gateway.respond = lambda call: None
    resident = await gateway.add()
    callers = [gateway.submit(resident, key=f"k{n}") for n in range(6)]
    others = [gateway.submit(resident, {"set": {"n": n}}, tool="u") for n in range(3)]
    await gateway.settle()
    for _ in range(3):
        gateway.answer_held(Failed(Usage(), Reason.TIMEOUT, "late"))
    assert all(is_refused(caller.last) for caller in callers[3:])
    gateway.respond = follow
    while gateway.held:
        gateway.answer_held()
    await gateway.settle()
    assert [caller.last.seq for caller in others if isinstance(caller.last, Succeeded)] == [1, 2, 3]
    assert all(len(caller.answers) == 1 for caller in callers + others)
    assert gateway.kernel.unanswered == 0
    gateway.now_s += 1
    assert isinstance(await gateway.trigger(resident, key="k5"), Succeeded), "its key is unused"


async def test_handler_that_waits_is_resumed_though_its_tool_is_suspended() -> None:
    gateway = failing(Reason.TRAP)
    respond, gateway.respond = gateway.respond, act
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(ASK))
    await gateway.settle()
    gateway.respond = respond
    await fail(gateway, resident)
    gateway.respond = act
    gateway.kernel.calls.answer(only_suspension(resident), None, b"true")
    await gateway.settle()
    assert isinstance(caller.last, Succeeded)
    assert resident.breakers == {}, "it succeeded"


async def test_lost_workers_count_and_what_never_ran_does_not() -> None:
    gateway = failing(Reason.TRAP)
    gateway.respond = lambda call: None
    resident = await gateway.add()
    for reason in (Reason.HANDLER_ERROR, Reason.WORKER_LOST, Reason.TIMEOUT, Reason.WORKER_LOST):
        gateway.submit(resident)
        (trigger,) = gateway.dispatcher.withdraw(resident.panel)
        gateway.kernel.failed(trigger, reason, "no worker")
    (breaker,) = resident.breakers["t"].values()
    assert breaker.failures == 2
    gateway.submit(resident)
    waiting = Caller()
    gateway.submit(resident, caller=waiting)
    trigger, behind = gateway.dispatcher.withdraw(resident.panel)
    gateway.dispatcher.offer(behind, gateway.now_s)
    gateway.kernel.failed(trigger, Reason.WORKER_LOST, "no worker")
    assert is_refused(waiting.last)


async def test_another_handler_begins_anew_and_so_does_a_reset() -> None:
    gateway = failing(Reason.TRAP)
    resident = await gateway.add()
    await fail(gateway, resident)
    await gateway.kernel.making.replace(resident, make_definition("p", "t", "u"), ANONYMOUS)
    assert is_refused(await gateway.trigger(resident)), "it is the same handler"
    tools = [{"name": "t", "handler": "another"}]
    await gateway.kernel.making.replace(resident, make_definition("p", tools=tools), ANONYMOUS)
    await fail(gateway, resident)
    assert is_refused(await gateway.trigger(resident))
    gateway.kernel.breakers.reset(resident, "t")
    await fail(gateway, resident, 1)
    gateway.kernel.breakers.reset(resident, "unknown")


async def test_breakers_are_off_where_no_failure_counts() -> None:
    gateway = Gateway(
        respond=lambda call: Failed(Usage(), Reason.TRAP, "no"),
        limits=KernelLimits(breakers=BreakerLimits(failures=0)),
    )
    resident = await gateway.add()
    await fail(gateway, resident, 30)
    assert resident.breakers == {}


async def test_tool_is_suspended_for_the_caller_who_makes_it_fail_and_for_nobody_else() -> None:
    gateway = failing(Reason.TIMEOUT)
    respond = gateway.respond
    resident = await gateway.add()
    bad, good = (principal_of(name, expires_at=None, grants=None) for name in ("bad", "good"))
    for _ in range(3):
        gateway.submit(resident, principal=bad)
        await gateway.settle()
    assert is_refused(gateway.submit(resident, principal=bad).last)
    gateway.respond = follow
    served = gateway.submit(resident, principal=good)
    await gateway.settle()
    assert isinstance(served.last, Succeeded)
    assert is_refused(gateway.submit(resident, principal=bad).last), "another's success is not theirs"
    shown = gateway.kernel.breakers.shown(resident, "t", 0.0)
    assert (shown["state"], shown["callers"], shown["failures"]) == ("open", 1, 3)
    assert gateway.kernel.breakers.open == 1
    gateway.kernel.breakers.reset(resident, "t")
    assert gateway.kernel.breakers.open == 0
    gateway.respond = respond


async def test_callers_beyond_the_bound_share_one_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "MAX_CALLERS", 2)
    gateway = failing(Reason.TIMEOUT)
    resident = await gateway.add()
    for number in range(5):
        who = principal_of(f"caller {number}", expires_at=None, grants=None)
        gateway.submit(resident, principal=who)
        await gateway.settle()
    assert len(resident.breakers["t"]) == 3
    newcomer = principal_of("newcomer", expires_at=None, grants=None)
    assert is_refused(gateway.submit(resident, principal=newcomer).last), "the others failed three times"
