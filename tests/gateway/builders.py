"""Small objects that gateway tests are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from panels_gateway.panels.panel import Mutation, Panel, StateLimits
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


def payloads(frames: bytes) -> list[bytes]:
    """The payloads of unmasked frames that stand behind each other."""
    found = []
    while frames:
        size = frames[1] & 0x7F
        at = 2
        if size == 126:
            size, at = int.from_bytes(frames[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(frames[2:10], "big"), 10
        found.append(frames[at : at + size])
        frames = frames[at + size :]
    return found
