"""Questions to people, as the events that show them."""

from __future__ import annotations

import json

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.kernel.questions import questions
from panels_gateway.panels.trigger import Trigger
from panels_shared.outcome import ExtensionCall, Suspended, Usage
from tests.support.gateway import Caller, Gateway

pytestmark = pytest.mark.anyio


async def make() -> Trigger:
    gateway = Gateway()
    resident = await gateway.add()
    return gateway.kernel.intake.accept(Caller(), resident.panel, "t", b"[1]", ANONYMOUS, "r", "k")


async def test_each_question_is_an_event_and_other_calls_are_not() -> None:
    calls = (
        ExtensionCall(1, "human", "approve", b'["refund?"]'),
        ExtensionCall(2, "time", "sleep", b"[1]"),
        ExtensionCall(3, "human", "ask", b"[]"),
        ExtensionCall(4, "human", "order", b"[]"),
    )
    found = questions(Suspended(Usage(), calls, b"i"), 0xABC, await make(), 1.5)
    payload = {"suspensionId": "000000000abc", "tool": "t"}
    assert [json.loads(event) for event in found] == [
        {"name": "human.asked", "payload": payload | {"call": 1, "method": "approve", "args": ["refund?"]}, "timestamp": 1500},
        {"name": "human.asked", "payload": payload | {"call": 3, "method": "ask", "args": []}, "timestamp": 1500},
    ]  # fmt: skip


async def test_handler_that_asks_nobody_emits_nothing() -> None:
    assert questions(Suspended(Usage(), (), b"i"), 1, await make(), 1.5) == ()
