"""The tools of a panel that run by themselves, by what they listen to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from panels_gateway.panels.definition import (
    Cron,
    Interval,
    Mount,
    OnEvent,
    OnStateChange,
    ToolDefinition,
    Unmount,
)
from panels_shared.names import Pattern


@dataclass(frozen=True, slots=True)
class Listeners:
    """The tools of a panel that run by themselves, by what they listen to."""

    timed: tuple[tuple[ToolDefinition, Interval | Cron], ...] = ()
    events: tuple[tuple[str, Pattern], ...] = ()
    keys: tuple[tuple[str, Pattern], ...] = ()
    mount: tuple[str, ...] = ()
    unmount: tuple[str, ...] = ()

    @classmethod
    def of(cls, tools: Sequence[ToolDefinition]) -> Listeners | None:
        """Those among ``tools``; None for none, as in most panels."""
        found = cls(
            tuple((tool, tool.trigger) for tool in tools if isinstance(tool.trigger, Interval | Cron)),
            tuple(
                (tool.name, Pattern.of(tool.trigger.pattern))
                for tool in tools
                if isinstance(tool.trigger, OnEvent)
            ),
            tuple(
                (tool.name, Pattern.of(tool.trigger.path))
                for tool in tools
                if isinstance(tool.trigger, OnStateChange)
            ),
            tuple(tool.name for tool in tools if isinstance(tool.trigger, Mount)),
            tuple(tool.name for tool in tools if isinstance(tool.trigger, Unmount)),
        )
        return found if found != cls() else None
