"""What a definition knows of itself."""

from __future__ import annotations

import json

import pytest

from panels_gateway.panels.definition import (
    Cron,
    HandlerSource,
    Interval,
    Manual,
    Mount,
    OnEvent,
    OnStateChange,
    PanelDefinition,
    ToolDefinition,
    Trigger,
    Unmount,
    trigger_name,
)
from panels_gateway.panels.quota import Quota
from panels_shared.handlers import DEFAULT_CAPABILITIES, PRESENCE_CAPABILITY, handler_digest

SOURCE = HandlerSource("javascript", "", b"return 1", handler_digest("javascript", "", b"return 1"))


def test_what_tools_say_is_found_by_their_names() -> None:
    made = PanelDefinition(
        id="p",
        kind="k",
        quota=Quota(fuel=9),
        tools=(
            ToolDefinition(name="plain", handler=SOURCE),
            ToolDefinition(
                name="careful",
                handler=SOURCE,
                quota=Quota(time_ms=5),
                args=json.dumps({"type": "integer"}).encode(),
                capabilities=(*DEFAULT_CAPABILITIES, PRESENCE_CAPABILITY),
            ),
        ),
    )
    assert made.quotas == {"careful": Quota(time_ms=5), "": Quota(fuel=9)}
    assert made.schemas.keys() == {"careful"}
    assert made.present == {"careful"}


def test_panel_without_a_label_has_the_empty_one() -> None:
    assert PanelDefinition(id="p", kind="k").label == ""
    assert PanelDefinition(id="p", kind="k", pool="gpu").label == "gpu"


def test_handlers_are_not_shown_with_their_sources() -> None:
    assert "return 1" not in repr(
        PanelDefinition(id="p", kind="k", tools=(ToolDefinition(name="t", handler=SOURCE),))
    )


@pytest.mark.parametrize(
    ("trigger", "name"),
    [
        (Manual(), "manual"),
        (Interval(1_000), "interval"),
        (Cron("* * * * *"), "cron"),
        (OnEvent("a.*"), "event"),
        (OnStateChange("n"), "state_change"),
        (Mount(), "mount"),
        (Unmount(), "unmount"),
    ],
)
def test_triggers_have_the_names_of_the_body(trigger: Trigger, name: str) -> None:
    assert trigger_name(trigger) == name
