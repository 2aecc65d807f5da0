"""Heartbeat bookkeeping, pure, for both sides of a connection between gateway and worker.

A heartbeat says that a peer is alive. That it makes progress is another mechanism with another owner: the
dispatcher's job deadlines.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Liveness:
    """Whether a peer has been heard of lately. Times are monotonic seconds.

    ``interval_s`` is how often each side speaks at least; a peer is lost after ``misses`` intervals of
    silence.
    """

    last_heard_s: float
    interval_s: float = 0.5
    misses: int = 4

    def heard(self, now_s: float) -> None:
        """Anything at all came from the peer."""
        self.last_heard_s = max(self.last_heard_s, now_s)

    @property
    def lost_at_s(self) -> float:
        """When the peer counts as lost if it stays silent."""
        return self.last_heard_s + self.interval_s * self.misses

    def lost(self, now_s: float) -> bool:
        """Whether the silence has lasted too long."""
        return now_s >= self.lost_at_s
