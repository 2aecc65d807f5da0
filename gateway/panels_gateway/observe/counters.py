"""What the gateway counts, as plain integers that cost nothing to count; ``metrics`` says how they are shown.

Each object is handed to whoever counts in it. They are defined here, in a layer below all
who count and all who read.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class HttpCounters:
    """HTTP requests that were answered, by status."""

    requests: dict[int, int] = field(default_factory=dict[int, int])

    def count_request(self, status: int) -> None:
        """One request was answered."""
        self.requests[status] = self.requests.get(status, 0) + 1


@dataclass(slots=True)
class ClientCounters:
    """WebSocket upgrades that were refused, by HTTP status, and WebSockets that were
    closed for reading too slowly.
    """

    upgrades_rejected: dict[int, int] = field(default_factory=dict[int, int])
    slow_consumers: int = 0

    def count_rejected_upgrade(self, status: int) -> None:
        """One upgrade was refused."""
        self.upgrades_rejected[status] = self.upgrades_rejected.get(status, 0) + 1


@dataclass(slots=True)
class BrokerCounters:
    """What passed through the socket between gateway and workers."""

    frames_in: int = 0
    frames_out: int = 0
    messages_in: int = 0
    bad_frames: int = 0
    unasked_frames: int = 0
    throttled_frames: int = 0
    lies: int = 0
    unroutable: int = 0
