"""Quotas in a gateway: who is refused, who is not, what is charged, and what runs all the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from panels_gateway.access.tokens import ANONYMOUS, principal_of
from panels_gateway.kernel.claims import SLACK_US
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.quotas import QuotaLimits
from panels_gateway.panels.quota import Quota
from panels_gateway.panels.trigger import Refused, Succeeded
from panels_shared.errors import Code
from panels_shared.limits import DEFAULT_LIMITS
from panels_shared.outcome import Completed, Failed, Reason, Usage
from tests.support.gateway import Call, Caller, Gateway, make_definition
from tests.support.waiting import ASK, act, asking, only_suspension

pytestmark = pytest.mark.anyio

ANN = principal_of("ann", expires_at=None, grants=None)
BOB = principal_of("bob", expires_at=None, grants=None)
#: A run of ``follow`` uses 7 units of fuel and 50 µs.
ONE_RUN = Quota(fuel=7, window_s=7)


def limited(**quotas: Quota) -> Gateway:
    return Gateway(limits=KernelLimits(quotas=QuotaLimits(**quotas)))


def details(caller: Caller) -> dict[str, Any]:
    answer = caller.last
    assert isinstance(answer, Refused), answer
    assert answer.code is Code.QUOTA_EXCEEDED
    return dict(answer.details or {})


async def test_subject_over_its_quota_is_refused_on_every_panel_and_others_are_not() -> None:
    gateway = limited(subject=ONE_RUN)
    first, second = await gateway.add("p"), await gateway.add("q")
    gateway.submit(first, principal=ANN)
    await gateway.settle()
    refused = gateway.submit(second, principal=ANN)
    assert details(refused) == {
        "quota": "subject", "resource": "fuel", "limit": 7, "windowS": 7.0, "retryAfterMs": 1,
    }  # fmt: skip
    assert len(gateway.jobs) == 1, "it is answered before anything is queued"
    other = gateway.submit(first, principal=BOB)
    await gateway.settle()
    assert isinstance(other.last, Succeeded)
    assert gateway.kernel.counters.over_quota == {"subject_fuel": 1}


async def test_panel_over_its_quota_is_refused_for_everybody_until_it_is_refilled() -> None:
    gateway = limited(panel=Quota(time_ms=1, window_s=10))
    resident, other = await gateway.add("p"), await gateway.add("q")

    def busy(call: Call) -> Completed:
        gateway.now_s += 0.0015
        return Completed(Usage(fuel=1, execution_us=1_500))

    gateway.respond = busy
    await gateway.trigger(resident)
    told = details(gateway.submit(resident, tool="u", principal=BOB))
    assert (told["quota"], told["resource"], told["retryAfterMs"]) == ("panel", "time", 5_000)
    assert isinstance(await gateway.trigger(other), Succeeded)
    gateway.now_s += 5.001
    assert isinstance(await gateway.trigger(resident), Succeeded)


async def test_tool_over_its_quota_leaves_the_other_tools_alone() -> None:
    gateway = limited(tool=ONE_RUN)
    resident = await gateway.add()
    await gateway.trigger(resident)
    assert details(gateway.submit(resident))["quota"] == "tool"
    assert isinstance(await gateway.trigger(resident, tool="u"), Succeeded)


async def test_definition_sets_quotas_of_its_own_where_the_gateway_has_none() -> None:
    gateway = Gateway()
    tools = [
        {"name": "t", "handler": "$args", "quota": {"fuel": 7, "windowS": 10}},
        {"name": "u", "handler": "1"},
    ]
    resident = await gateway.add("p", tools=tools, quota={"fuel": 14})
    await gateway.trigger(resident)
    assert details(gateway.submit(resident))["quota"] == "tool"
    await gateway.trigger(resident, tool="u")
    assert details(gateway.submit(resident, tool="u"))["quota"] == "panel"
    await gateway.kernel.making.replace(resident, make_definition("p", "t"), ANONYMOUS)
    assert isinstance(await gateway.trigger(resident), Succeeded)


async def test_definition_cannot_raise_the_gateways_quota() -> None:
    gateway = limited(panel=ONE_RUN)
    resident = await gateway.add("p", "t", quota={"fuel": 1_000_000, "windowS": 1})
    await gateway.trigger(resident)
    assert details(gateway.submit(resident))["limit"] == 7


async def test_triggers_in_flight_may_overdraw_and_are_all_charged() -> None:
    gateway = limited(panel=ONE_RUN)
    gateway.respond = lambda call: None
    resident = await gateway.add()
    callers = [gateway.submit(resident) for _ in range(4)]
    await gateway.settle()
    while gateway.held:
        gateway.answer_held()
    await gateway.settle()
    assert all(isinstance(caller.last, Succeeded) for caller in callers)
    assert details(gateway.submit(resident))["retryAfterMs"] == 21_000, "21 units of debt at 1 a second"


@pytest.mark.parametrize(
    ("usage", "fuel", "execution_us"),
    [
        (Usage(fuel=3, execution_us=4), 3, 4),
        (Usage(fuel=-1, execution_us=4), DEFAULT_LIMITS.fuel, 4),
        # no time has passed since it was sent
        (Usage(fuel=2**60, execution_us=2**60), DEFAULT_LIMITS.fuel, SLACK_US),
        (Usage(fuel=0, execution_us=-5), 0, 0),
    ],
)
async def test_failures_are_charged_and_a_worker_is_believed_within_the_tools_limits(
    usage: Usage, fuel: int, execution_us: int
) -> None:
    gateway = Gateway(respond=lambda call: Failed(usage, Reason.TIMEOUT, "late"))
    await gateway.trigger(await gateway.add())
    counters = gateway.kernel.counters
    assert (counters.fuel, counters.execution_us) == (fuel, execution_us)


async def test_run_that_took_its_workers_along_is_charged_and_one_that_never_ran_is_not() -> None:
    gateway = limited(panel=ONE_RUN)
    gateway.respond = lambda call: None
    resident = await gateway.add()
    gateway.submit(resident)
    (trigger,) = gateway.dispatcher.withdraw(resident.panel)
    gateway.kernel.failed(trigger, Reason.HANDLER_ERROR, "the handler was refused")
    assert gateway.kernel.counters.fuel == 0
    gateway.submit(resident)
    (trigger,) = gateway.dispatcher.withdraw(resident.panel)
    gateway.kernel.failed(trigger, Reason.WORKER_LOST, "died twice")
    assert gateway.kernel.counters.fuel == DEFAULT_LIMITS.fuel
    details(gateway.submit(resident))


async def test_refusal_frees_the_key_and_an_answered_key_is_repeated_over_quota() -> None:
    gateway = limited(panel=ONE_RUN)
    resident = await gateway.add()
    first = await gateway.trigger(resident, key="k")
    assert await gateway.trigger(resident, key="k") == first, "nothing runs, so nothing is refused"
    details(gateway.submit(resident, key="new"))
    gateway.now_s += 1
    assert isinstance(await gateway.trigger(resident, key="new"), Succeeded)


async def test_resumption_is_charged_and_never_refused() -> None:
    gateway = limited(panel=Quota(fuel=1, window_s=1_000))
    gateway.respond = act
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(ASK))
    await gateway.settle()
    gateway.kernel.quotas.charge(only_suspension(resident).origin, Usage(fuel=5), gateway.now_s)
    details(gateway.submit(resident))
    before = gateway.kernel.counters.execution_us
    gateway.kernel.calls.answer(only_suspension(resident), None, b"true")
    await gateway.settle()
    assert isinstance(caller.last, Succeeded)
    assert gateway.kernel.counters.execution_us >= before


async def test_tool_that_runs_by_itself_is_skipped_counted_and_logged_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway()
    listening = {"type": "event", "pattern": "e"}
    quota = {"fuel": 1, "windowS": 86_400}
    tools: list[dict[str, object]] = [
        {"name": "t", "handler": "1"},
        {"name": "u", "handler": "2", "trigger": listening, "quota": quota},
    ]
    resident = await gateway.add("p", tools=tools)
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            await gateway.trigger(resident, {"emit": {"e": 1}})
    assert len(gateway.jobs) == 31, "t thirty times and u once"
    assert gateway.kernel.counters.self_skipped == 29
    lines = [record for record in caplog.records if "was not run by itself" in record.message]
    assert len(lines) == 10
