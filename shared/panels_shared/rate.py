"""A token bucket: how much of something may happen in the long run, and how much at once.

Nothing here reads a clock; times are monotonic seconds, and a clock that goes back adds nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``per_s`` units a second in the long run and ``burst`` units at once.

    ``per_s`` 0 means no limit.
    """

    per_s: float = 0.0
    burst: int = 100


class TokenBucket:
    """The units that are left under a ``RateLimit``; all of ``burst`` at the start.

    ``take`` is the whole of it for most callers. Whoever must look into several buckets before it takes from
    any calls ``refill``, ``has`` and ``spend``.
    """

    __slots__ = ("_left", "_limit", "_refilled_s")

    def __init__(self, limit: RateLimit, now_s: float) -> None:
        self._limit = limit
        self._left = float(limit.burst) if limit.per_s else math.inf
        self._refilled_s = now_s

    def take(self, now_s: float, units: float = 1.0) -> float:
        """Takes ``units`` and returns 0, or takes nothing and returns the seconds until there are as many.

        More than ``burst`` never come together: the answer is then infinity.
        """
        self.refill(now_s)
        if self.has(units):
            self.spend(units)
            return 0.0
        if units > self._limit.burst:
            return math.inf
        return (units - self._left) / self._limit.per_s

    def refill(self, now_s: float) -> None:
        """Adds what has accrued since the last call."""
        limit = self._limit
        if limit.per_s:
            accrued = max(0.0, now_s - self._refilled_s) * limit.per_s
            self._left = min(float(limit.burst), self._left + accrued)
        self._refilled_s = now_s

    def has(self, units: float) -> bool:
        """Whether ``units`` are left, as of the last ``refill``."""
        return units <= self._left

    def spend(self, units: float) -> None:
        """Takes ``units`` that ``has`` said are there."""
        self._left -= units
