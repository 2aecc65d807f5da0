"""What has happened in the kernel since the start. Metrics show it; nothing decides by it."""

from __future__ import annotations

from dataclasses import dataclass, field

from panels_shared.outcome import Reason


@dataclass(slots=True)
class Counters:
    """Plain integers, so that counting costs nothing.

    ``connections`` goes up and down; all others only go up.

    ``joined`` counts triggers that got the answer of another one under the same idempotency key, ``repeated``
    those that got an answer that had been given before.
    """

    triggers: int = 0
    completed: int = 0
    failed: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    refused_commits: int = 0
    suspended: int = 0
    self_triggers: int = 0
    chains_cut: int = 0
    overloaded: int = 0
    joined: int = 0
    repeated: int = 0
    connections: int = 0
    connections_total: int = 0
    recovered: int = 0
    resynced: int = 0
    loaded: int = 0
    put_away: int = 0
