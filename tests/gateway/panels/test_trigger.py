"""A trigger never changes, and can be run by another tool."""

from __future__ import annotations

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.panels.trigger import Trigger
from tests.support.gateway import Caller, Gateway

pytestmark = pytest.mark.anyio


async def make() -> Trigger:
    gateway = Gateway()
    resident = await gateway.add()
    intake = gateway.kernel.intake
    return intake.accept(Caller(), resident.panel, "t", b"[1]", ANONYMOUS, "r", "k")


async def test_trigger_never_changes() -> None:
    trigger = await make()
    with pytest.raises(AttributeError):
        trigger.args = b"2"  # type: ignore[misc]


async def test_with_tool_is_the_same_but_for_the_tool() -> None:
    trigger = await make()
    other = trigger.with_tool(trigger.panel.tools["u"])
    assert other.tool.name == "u"
    assert trigger.tool.name == "t"
    for name in Trigger.__struct_fields__:
        if name != "tool":
            assert getattr(other, name) is getattr(trigger, name)


async def test_triggers_are_told_apart_however_alike_they_are() -> None:
    trigger = await make()
    assert trigger.with_tool(trigger.tool) != trigger
    assert len({trigger, trigger.with_tool(trigger.tool)}) == 2
