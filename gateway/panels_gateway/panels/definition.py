"""What a panel is made from: frozen values that ``definition_body`` made of the body of POST and PUT, or
``stored`` of the record.

    PanelDefinition
    ├── ToolDefinition ... (name, handler, trigger, limits, capabilities, schemas)
    │   ├── HandlerSource   language, entry, source, digest
    │   └── Trigger         Manual | Interval | Cron | OnEvent | OnStateChange | Mount | Unmount
    └── initial_state       key → JSON bytes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from panels_gateway.panels.quota import Quota
from panels_gateway.panels.schema import Schema
from panels_shared.handlers import (
    DEFAULT_CAPABILITIES,
    PRESENCE_CAPABILITY,
)
from panels_shared.limits import DEFAULT_LIMITS, Limits
from panels_shared.messages import Digest, Language

Misfire = Literal["skip", "once", "all"]


class Manual(msgspec.Struct, frozen=True, tag="manual", tag_field="type", forbid_unknown_fields=True):
    """Runs when a client triggers it."""


class Interval(msgspec.Struct, frozen=True, tag="interval", tag_field="type", forbid_unknown_fields=True):
    """Runs every ``ms`` milliseconds."""

    ms: int
    misfire: Misfire = "skip"


class Cron(msgspec.Struct, frozen=True, tag="cron", tag_field="type", forbid_unknown_fields=True):
    """Runs by a cron ``expression`` of five fields, in the time zone of that name.

    ``misfire`` says what happens to due times that nobody was there for: they are skipped, run once, or all
    run.
    """

    expression: str
    timezone: str = "UTC"
    misfire: Misfire = "skip"


class OnEvent(msgspec.Struct, frozen=True, tag="event", tag_field="type", forbid_unknown_fields=True):
    """Runs on each event of the panel whose name matches ``pattern`` (a trailing ``*`` matches a prefix)."""

    pattern: str


class OnStateChange(
    msgspec.Struct, frozen=True, tag="state_change", tag_field="type", forbid_unknown_fields=True
):
    """Runs when the state at ``path`` changes."""

    path: str


class Mount(msgspec.Struct, frozen=True, tag="mount", tag_field="type", forbid_unknown_fields=True):
    """Runs when the first client comes to the panel."""


class Unmount(msgspec.Struct, frozen=True, tag="unmount", tag_field="type", forbid_unknown_fields=True):
    """Runs when the last client has left the panel."""


Trigger = Manual | Interval | Cron | OnEvent | OnStateChange | Mount | Unmount

MANUAL: Final = Manual()

_TRIGGER_NAMES: Final[Mapping[type, str]] = {
    Manual: "manual",
    Interval: "interval",
    Cron: "cron",
    OnEvent: "event",
    OnStateChange: "state_change",
    Mount: "mount",
    Unmount: "unmount",
}


def trigger_name(trigger: Trigger) -> str:
    """The ``type`` of a trigger, as in the body."""
    return _TRIGGER_NAMES[type(trigger)]


@dataclass(frozen=True, slots=True)
class HandlerSource:
    """What is run: source text as UTF-8, or a WebAssembly binary. ``entry`` is "" for scripts."""

    language: Language
    entry: str
    source: bytes = field(repr=False)
    digest: Digest = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """One tool of a panel. ``capabilities`` is the effective list: its own, else its panel's, else the
    default.

    ``exclusive``: while a handler of it waits, no other trigger of the panel is run.
    ``args``, ``returns``: JSON Schemas as JSON, None for none. Arguments are checked by the one; the other is
    for those who make types of it.
    """

    name: str
    handler: HandlerSource
    trigger: Trigger = MANUAL
    description: str | None = None
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    limits: Limits = DEFAULT_LIMITS
    exclusive: bool = False
    quota: Quota | None = None
    args: bytes | None = None
    returns: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelDefinition:
    """A validated definition. ``metadata`` is a JSON object; ``initial_state`` maps top-level keys to JSON,
    None where the body has none (a PUT then keeps the state). ``pool`` is the label of the pools that compile
    and run it, None for those without labels. ``presence``: whether clients may know who else watches.
    ``modules`` has the SHA-256 of each module that tools share, by name; handlers have those that they import
    in them, see ``script_modules``."""

    id: str
    kind: str
    title: str | None = None
    tools: tuple[ToolDefinition, ...] = ()
    initial_state: Mapping[str, bytes] | None = field(default=None, repr=False)
    capabilities: tuple[str, ...] | None = None
    metadata: bytes = b"{}"
    quota: Quota | None = None
    pool: str | None = None
    presence: bool = False
    modules: Mapping[str, str] = field(default_factory=dict)
    #: The quotas that the definition sets: its tools' by name, and the panel's own under "".
    quotas: Mapping[str, Quota] = field(init=False, repr=False)
    #: What the arguments of tools are checked by, by their names.
    schemas: Mapping[str, Schema] = field(init=False, repr=False, compare=False)
    #: The tools whose handlers may know who watches.
    present: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        quotas = {tool.name: tool.quota for tool in self.tools if tool.quota is not None}
        if self.quota is not None:
            quotas[""] = self.quota
        object.__setattr__(self, "quotas", quotas)
        checks = {tool.name: Schema(tool.args) for tool in self.tools if tool.args is not None}
        object.__setattr__(self, "schemas", checks)
        present = frozenset(tool.name for tool in self.tools if PRESENCE_CAPABILITY in tool.capabilities)
        object.__setattr__(self, "present", present)

    @property
    def label(self) -> str:
        """``pool`` as the dispatcher knows it: "" for none."""
        return self.pool or ""
