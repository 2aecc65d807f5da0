"""Small objects that gateway tests are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from panels_gateway.panel import Mutation, Panel, StateLimits
from panels_shared.messages import PanelKey


def make_panel(state: dict[str, bytes] | None = None, *, limits: StateLimits | None = None) -> Panel:
    """A panel without tools."""
    definition: Any = None
    return Panel(
        key=PanelKey(1),
        id="p",
        definition=definition,
        tools={},
        created_ms=0,
        limits=limits or StateLimits(),
        state=dict(state or {}),
    )


def setting(key: str, value: object) -> Mutation:
    """A mutation that sets ``key``."""
    return Mutation("set", key, msgspec.Raw(msgspec.json.encode(value)))


def deleting(key: str) -> Mutation:
    """A mutation that deletes ``key``."""
    return Mutation("delete", key)
