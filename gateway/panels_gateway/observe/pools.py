"""What pools say of themselves, added up over all of them. Pure.

A pool that leaves takes its levels along. What it counted stays, because a sum that goes down would look like
a restart of everything, and a pool that comes to a new gateway brings nothing along: what it did before was
not done to this one. So the first report of each pool only says where its counting begins.

A pool proves that it has the bus key, and is believed about itself; ``messages`` bounds what it can say.
Bound: the pools that are admitted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from panels_shared.messages import PoolReport

#: Levels of a report, and what only grows.
LEVELS: Final = ("processes", "ready", "rss_bytes")
COUNTS: Final = ("started", "crashed", "killed", "cpu_ms")


class PoolReports:
    """See the module's docstring. ``counts`` has the sums of ``COUNTS`` since the start."""

    __slots__ = ("_last", "counts")

    def __init__(self) -> None:
        self._last: dict[bytes, PoolReport] = {}
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)

    def take(self, pool: bytes, report: PoolReport) -> None:
        """The pool's newest report; one that counts less than before begins anew."""
        before = self._last.get(pool)
        self._last[pool] = report
        if before is not None:
            for name in COUNTS:
                self.counts[name] += max(0, getattr(report, name) - getattr(before, name))

    def retain(self, pools: Collection[bytes]) -> None:
        """Forgets all pools but these."""
        for pool in [pool for pool in self._last if pool not in pools]:
            del self._last[pool]

    def level(self, name: str) -> int:
        """The sum of one of ``LEVELS`` over the pools that are here."""
        return sum(getattr(report, name) for report in self._last.values())
