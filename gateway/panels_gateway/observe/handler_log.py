"""What handlers log, on its way into the gateway's log.

Writing a line costs the gateway's one thread about 20 µs, and a job may log a thousand: without a bound, whoever writes
a handler decides how fast everybody else is served, and how soon the disk is full.

Queue: none, lines are written at once. Unit: characters, a line counting ``LINE_CHARS`` more than its text. Bound: a token
bucket for each panel and one for all. Overflow policy: lines are dropped and counted, and the panel's next line that is
written says how many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from panels_shared.limits import KIB, MIB
from panels_shared.messages import PanelKey
from panels_shared.outcome import LogLine

_log = logging.getLogger("panels.handler")
_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)

#: What a line counts beside its text.
LINE_CHARS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class LogBudget:
    """Characters that may be logged: ``per_s`` a second in the long run, ``burst`` at once. Security limits."""

    per_s: int
    burst: int


PANEL_BUDGET: Final = LogBudget(per_s=32 * KIB, burst=128 * KIB)
TOTAL_BUDGET: Final = LogBudget(per_s=256 * KIB, burst=MIB)


class _Bucket:
    __slots__ = ("_budget", "_left", "_refilled_s", "dropped")

    def __init__(self, budget: LogBudget, now_s: float) -> None:
        self._budget = budget
        self._left = float(budget.burst)
        self._refilled_s = now_s
        self.dropped = 0

    def refill(self, now_s: float) -> None:
        budget = self._budget
        self._left = min(float(budget.burst), self._left + max(0.0, now_s - self._refilled_s) * budget.per_s)
        self._refilled_s = now_s

    def has(self, size: int) -> bool:
        return size <= self._left

    def take(self, size: int) -> None:
        self._left -= size


class HandlerLog:
    """See the module's docstring. Times are monotonic seconds. ``dropped`` counts lines since the start."""

    __slots__ = ("_panel_budget", "_panels", "_total", "dropped")

    def __init__(
        self, now_s: float, *, panel_budget: LogBudget = PANEL_BUDGET, total_budget: LogBudget = TOTAL_BUDGET
    ) -> None:
        self._panel_budget = panel_budget
        self._panels: dict[PanelKey, _Bucket] = {}
        self._total = _Bucket(total_budget, now_s)
        self.dropped = 0

    def write(
        self, panel: PanelKey, panel_id: str, tool: str, lines: Iterable[LogLine], now_s: float
    ) -> None:
        """Logs ``lines`` of one job as far as the budgets allow."""
        bucket = self._panels.get(panel)
        if bucket is None:
            bucket = self._panels[panel] = _Bucket(self._panel_budget, now_s)
        total = self._total
        bucket.refill(now_s)
        total.refill(now_s)
        for line in lines:
            level = _LEVELS[line.level] if 0 <= line.level < len(_LEVELS) else logging.INFO
            if not _log.isEnabledFor(level):
                continue
            size = LINE_CHARS + len(line.text)
            if not (bucket.has(size) and total.has(size)):
                bucket.dropped += 1
                self.dropped += 1
                continue
            bucket.take(size)
            total.take(size)
            if bucket.dropped:
                _log.warning(
                    "%s: %d lines of its handlers were not logged: too many", panel_id, bucket.dropped
                )
                bucket.dropped = 0
            _log.log(level, "%s/%s: %s", panel_id, tool, line.text)

    def forget(self, panel: PanelKey) -> None:
        """The panel is gone."""
        self._panels.pop(panel, None)
