"""What the gateway counts, as plain integers that cost nothing to count; ``metrics`` says how they are shown.

Each object is handed to whoever counts in it. They are defined here, in a layer below all
who count and all who read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: What clients are refused or cut for before their request or message is looked at; labels of a metric.
REFUSALS: Final = (
    "host",
    "origin",
    "revoked",
    "connections",
    "upgrade_rate",
    "auth_failures",
    "handshake",
    "message_time",
    "message_rate",
    "fragments",
    "control_frames",
    "no_pong",
)


@dataclass(slots=True)
class RefusalCounters:
    """Requests that were refused, and sockets that were cut, by what they were refused for."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REFUSALS, 0))

    def count(self, reason: str) -> None:
        """One was refused for ``reason``, one of ``REFUSALS``."""
        self.counts[reason] += 1


@dataclass(slots=True)
class HttpCounters:
    """HTTP requests that were answered, by status."""

    requests: dict[int, int] = field(default_factory=dict[int, int])

    def count_request(self, status: int) -> None:
        """One request was answered."""
        self.requests[status] = self.requests.get(status, 0) + 1


@dataclass(slots=True)
class OutboxCounters:
    """How many ``bytes`` wait in the outboxes of all clients, and how often PATCHes there were ``merged``."""

    bytes: int = 0
    merged: int = 0


@dataclass(slots=True)
class ClientCounters:
    """WebSocket upgrades that were refused, by HTTP status, WebSockets that were closed for reading too
    slowly, and what waits for those that are open.
    """

    upgrades_rejected: dict[int, int] = field(default_factory=dict[int, int])
    slow_consumers: int = 0
    outboxes: OutboxCounters = field(default_factory=OutboxCounters)

    def count_rejected_upgrade(self, status: int) -> None:
        """One upgrade was refused."""
        self.upgrades_rejected[status] = self.upgrades_rejected.get(status, 0) + 1


@dataclass(slots=True)
class BrokerCounters:
    """What passed through the socket between gateway and workers, and what was turned away there: frames of
    strangers that were no Hello, Hellos that proved nothing, and admitted peers that said what they may not.
    """

    frames_in: int = 0
    frames_out: int = 0
    messages_in: int = 0
    bad_frames: int = 0
    unasked_frames: int = 0
    throttled_frames: int = 0
    lies: int = 0
    unroutable: int = 0
    strangers_dropped: int = 0
    hellos_refused: int = 0
    breaches: int = 0
