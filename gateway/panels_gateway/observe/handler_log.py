"""What handlers log, on its way into the gateway's log.

Writing a line costs the gateway's one thread about 20 µs, and a job may log a thousand: without a bound, the
author of one handler would decide how fast everybody else is served, and how soon the disk is full.

Queue: none, lines are written at once. Unit: characters, a line counting ``LINE_CHARS`` more than its text.
Bound: a token bucket for each panel and one for all. Overflow policy: lines are dropped and counted, and the
panel's next line that is written says how many.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from panels_shared.limits import KIB, MIB
from panels_shared.messages import PanelKey
from panels_shared.outcome import Failed, LogLine
from panels_shared.rate import RateLimit, TokenBucket

_log = logging.getLogger("panels.handler")
_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)

#: What a line counts in addition to its text.
LINE_CHARS: Final = 128


#: Characters that may be logged a second in the long run, and at once. Security limits.
PANEL_BUDGET: Final = RateLimit(per_s=32 * KIB, burst=128 * KIB)
TOTAL_BUDGET: Final = RateLimit(per_s=256 * KIB, burst=MIB)


class _PanelLog:
    """One panel's remaining budget, and how many lines it lost since the last one that was written."""

    __slots__ = ("bucket", "dropped")

    def __init__(self, budget: RateLimit, now_s: float) -> None:
        self.bucket = TokenBucket(budget, now_s)
        self.dropped = 0


class HandlerLog:
    """See the module's docstring. Times are monotonic seconds."""

    __slots__ = ("_panel_budget", "_panels", "_total")

    def __init__(
        self, now_s: float, *, panel_budget: RateLimit = PANEL_BUDGET, total_budget: RateLimit = TOTAL_BUDGET
    ) -> None:
        self._panel_budget = panel_budget
        self._panels: dict[PanelKey, _PanelLog] = {}
        self._total = TokenBucket(total_budget, now_s)

    def write(
        self,
        panel: PanelKey,
        panel_id: str,
        tool: str,
        lines: Iterable[LogLine],
        now_s: float,
        **ids: object,
    ) -> None:
        """Logs as many of one job's ``lines`` as the budgets allow. ``ids`` say which job it was: see
        ``panels_shared.loglines.FIELDS``.
        """
        extra = {"panel": panel_id, "tool": tool, **ids}
        own = self._panels.get(panel)
        if own is None:
            own = self._panels[panel] = _PanelLog(self._panel_budget, now_s)
        bucket, total = own.bucket, self._total
        bucket.refill(now_s)
        total.refill(now_s)
        for line in lines:
            level = _LEVELS[line.level] if 0 <= line.level < len(_LEVELS) else logging.INFO
            if not _log.isEnabledFor(level):
                continue
            size = LINE_CHARS + len(line.text)
            if not (bucket.has(size) and total.has(size)):
                own.dropped += 1
                continue
            bucket.spend(size)
            total.spend(size)
            if own.dropped:
                text = "%s: %d lines of its handlers were not logged: too many"
                _log.warning(text, panel_id, own.dropped, extra={"panel": panel_id})
                own.dropped = 0
            _log.log(level, "%s/%s: %s", panel_id, tool, line.text, extra=extra)

    def failed(self, panel: PanelKey, panel_id: str, tool: str, outcome: Failed, now_s: float) -> None:
        """Logs at debug how a job failed: its caller was told, and who develops the handler reads it
        here. The line counts as one of the handler's.
        """
        if not _log.isEnabledFor(logging.DEBUG):
            return
        place = f" at line {outcome.line}" if outcome.line else ""
        place += f", column {outcome.column}" if place and outcome.column else ""
        line = LogLine(0, f"failed{place}: {outcome.message} ({outcome.reason.value})")
        self.write(panel, panel_id, tool, (line,), now_s)

    def forget(self, panel: PanelKey) -> None:
        """The panel is gone."""
        self._panels.pop(panel, None)
