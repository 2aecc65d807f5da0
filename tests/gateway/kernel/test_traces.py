"""Spans of triggers as the kernel makes them."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.extensions.messages import Call, CallId, Returned
from panels_gateway.observe.tracing import Span, Tracing
from panels_shared.outcome import Failed, Reason, Usage
from tests.support.gateway import Caller, Gateway
from tests.support.waiting import act, asking, sleeping

pytestmark = pytest.mark.anyio

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def traced(gateway: Gateway, ratio: float = 1.0) -> list[Span]:
    spans: list[Span] = []
    gateway.kernel.trace(Tracing(spans.append, ratio=ratio, random_bits=random.Random(1).getrandbits))
    return spans


async def trigger(gateway: Gateway, args: Any = None, *, traceparent: str | None = None) -> None:
    resident = await gateway.open()
    intake = gateway.kernel.intake
    taken = intake.accept(
        Caller(), resident.panel, "t", json.dumps(args).encode(), ANONYMOUS, "r-1", traceparent=traceparent
    )
    intake.submit(taken)
    await gateway.settle()


async def test_trigger_has_a_span_below_its_callers() -> None:
    gateway = Gateway()
    await gateway.add()
    spans = traced(gateway, ratio=0.0)
    await trigger(gateway)
    assert spans == []
    await trigger(gateway, traceparent=GIVEN)
    own, queue, run = spans
    assert (own.name, own.kind, own.error) == ("trigger t", "server", "")
    assert f"{own.trace_id:032x}-{own.parent_id:016x}" in GIVEN
    assert own.attributes == {
        "panels.panel": "p", "panels.tool": "t", "panels.request": "r-1", "panels.outcome": "completed"
    }  # fmt: skip
    assert queue.parent_id == run.parent_id == own.span_id
    assert run.attributes["panels.fuel"] == 7
    assert run.attributes["panels.worker"] == b"worker".hex()


async def test_failures_and_refusals_are_errors() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_timeout_s=5.0))
    await gateway.add()
    spans = traced(gateway)
    gateway.respond = lambda call: Failed(Usage(), Reason.TRAP, "no")
    await trigger(gateway)
    assert [span.error for span in spans] == ["TRAP", "", "TRAP"]
    gateway.dispatcher.lost(b"worker", gateway.now_s)  # type: ignore[arg-type]
    await trigger(gateway)
    await gateway.wait(6.0)
    assert [(span.name, span.error) for span in spans[3:]] == [("trigger t", "UNAVAILABLE")]
    assert spans[3].ended_s - spans[3].began_s == 6.0


async def test_steps_of_a_handler_that_waited_are_one_trace() -> None:
    gateway = Gateway(respond=act)
    await gateway.add()
    spans = traced(gateway)
    await trigger(gateway, sleeping(1, then={"set": {"n": 1}}), traceparent=GIVEN)
    resident = await gateway.open()
    (suspension,) = resident.waiting.values()
    gateway.kernel.suspensions.answered(suspension, 1, ok=True, value=b"null")
    await gateway.settle()
    triggers = [span for span in spans if span.name == "trigger t"]
    assert [span.attributes["panels.outcome"] for span in triggers] == ["suspended", "completed"]
    assert triggers[1].parent_id == triggers[0].span_id
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)


class Extensions:
    """The client of an extension process that keeps what it is asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[CallId] = []

    def call(self, call: Call) -> None:
        self.calls.append(call)

    def cancel(self, name: CallId) -> None:
        self.cancelled.append(name)

    def repeatable(self, extension: str, method: str) -> bool | None:
        return True


async def test_extension_is_told_the_span_of_its_call() -> None:
    gateway = Gateway(respond=act)
    await gateway.add()
    spans = traced(gateway)
    extensions = Extensions()
    gateway.kernel.calls.client = extensions  # type: ignore[assignment]
    script = asking(("shop", "buy", [1]), ("shop", "ask", [2]))
    await trigger(gateway, script, traceparent=GIVEN)
    bought, asked = extensions.calls
    gateway.kernel.calls.extension_returned(Returned(bought.id, result=b"1"))
    resident = await gateway.open()
    (suspension,) = resident.waiting.values()
    gateway.kernel.suspensions.fail(suspension, Reason.CANCELLED, "no more")
    await gateway.settle()
    own = next(span for span in spans if span.name == "trigger t")
    calls = {span.name: span for span in spans if span.kind == "client"}
    assert {name: span.error for name, span in calls.items()} == {
        "call shop.buy": "",
        "call shop.ask": "cancelled",
    }
    for made, name in ((bought, "call shop.buy"), (asked, "call shop.ask")):
        span = calls[name]
        assert made.traceparent == f"00-{span.trace_id:032x}-{span.span_id:016x}-01"
        assert span.parent_id == own.span_id
        assert made.traceparent.startswith(GIVEN[:35])
