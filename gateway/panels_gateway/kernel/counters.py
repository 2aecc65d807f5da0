"""What has happened in the kernel since the start. Metrics show it; nothing decides by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from panels_shared.errors import Code
from panels_shared.outcome import Reason

#: Why triggers are refused that were submitted; labels of a metric.
REFUSED: Final = (
    Code.OVERLOADED,
    Code.UNAVAILABLE,
    Code.QUOTA_EXCEEDED,
    Code.CIRCUIT_OPEN,
    Code.CONFLICT,
    Code.PANEL_NOT_FOUND,
    Code.TOOL_NOT_FOUND,
)
#: What handlers call, and how calls of extensions of their own end; labels of metrics.
EXTENSION_CALLS: Final = ("time", "panels", "human", "extension")
EXTENSION_ANSWERS: Final = ("ok", "failed", "lost")


@dataclass(slots=True)
class Counters:
    """Plain integers, so that counting costs nothing.

    ``connections`` and ``stream_readers`` go up and down; all others only go up.

    ``joined`` counts triggers that got the answer of another one under the same idempotency key, ``repeated``
    those that got an answer that had been given before.

    ``refused`` counts the triggers that were submitted and not run, by code. ``extension_calls`` counts what
    handlers called, by kind, and ``extension_answers`` how the calls of configured extensions ended.

    ``over_quota`` counts refusals by quota and resource, like ``panel_fuel``. ``fuel`` and ``execution_us``
    are what all runs used, and ``self_skipped`` are runs of tools by themselves that a quota or an open
    circuit stopped. ``circuits_opened`` counts how often a tool was suspended, and ``circuit_refused`` the
    triggers that were refused for it.
    """

    triggers: int = 0
    completed: int = 0
    failed: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    refused_commits: int = 0
    suspended: int = 0
    self_triggers: int = 0
    chains_cut: int = 0
    refused: dict[Code, int] = field(default_factory=lambda: dict.fromkeys(REFUSED, 0))
    extension_calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXTENSION_CALLS, 0))
    extension_answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXTENSION_ANSWERS, 0))
    overloaded: int = 0
    over_quota: dict[str, int] = field(default_factory=dict[str, int])
    self_skipped: int = 0
    circuits_opened: int = 0
    circuit_refused: int = 0
    fuel: int = 0
    execution_us: int = 0
    joined: int = 0
    repeated: int = 0
    connections: int = 0
    connections_total: int = 0
    stream_readers: int = 0
    recovered: int = 0
    resynced: int = 0
    loaded: int = 0
    put_away: int = 0
