"""The tools of a panel, by what they listen to."""

from __future__ import annotations

from panels_gateway.kernel.listeners import Listeners
from tests.support.gateway import make_definition


def tool(name: str, **trigger: object) -> dict[str, object]:
    return {"name": name, "handler": "1", "trigger": trigger}


def test_listeners_are_none_where_clients_trigger_everything() -> None:
    assert Listeners.of(make_definition("p", "t", "u").tools) is None
    assert Listeners.of(()) is None


def test_listeners_have_each_tool_once() -> None:
    made = make_definition(
        "p",
        tools=[
            tool("a", type="interval", ms=100),
            tool("b", type="cron", expression="* * * * *"),
            tool("c", type="event", pattern="x*"),
            tool("d", type="state_change", path="k"),
            tool("e", type="mount"),
            tool("f", type="unmount"),
            tool("g", type="manual"),
        ],
    )
    found = Listeners.of(made.tools)
    assert found is not None
    assert [made.name for made, _ in found.timed] == ["a", "b"]
    assert [(name, pattern.matches("xy")) for name, pattern in found.events] == [("c", True)]
    assert [(name, pattern.matches("kk")) for name, pattern in found.keys] == [("d", False)]
    assert (found.mount, found.unmount) == (("e",), ("f",))
