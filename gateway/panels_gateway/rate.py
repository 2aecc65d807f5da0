"""How often one client may trigger: a token bucket. Pure; times are monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``per_s`` triggers a second in the long run, ``burst`` at once. ``per_s`` 0 means no limit."""

    per_s: float = 0.0
    burst: int = 100


class TokenBucket:
    """The tokens of one client; full at the start."""

    __slots__ = ("_limit", "_refilled_s", "_tokens")

    def __init__(self, limit: RateLimit, now_s: float) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._refilled_s = now_s

    def take(self, now_s: float) -> float:
        """Takes a token and returns 0, or returns the seconds until there is one."""
        limit = self._limit
        elapsed = max(0.0, now_s - self._refilled_s)
        self._tokens = min(float(limit.burst), self._tokens + elapsed * limit.per_s)
        self._refilled_s = now_s
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / limit.per_s
