"""What the log is told about there being no sandbox. Pure: it takes numbers and the time, and returns a line.

Somebody who reads the log has to find the one thing that explains why no trigger is answered, so the loss of
the last sandbox is a warning, and it is repeated for as long as it lasts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from panels_shared.reminder import Reminder

#: How long a gateway that has just started waits for its first sandbox before it says that none has come.
PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the log: its level, and its text as it is."""

    level: int
    text: str


class Attendance:
    """See the module's docstring. ``endpoint`` is where workers connect. Times are monotonic seconds."""

    __slots__ = ("_endpoint", "_had_any", "_since_s", "_vacancy")

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._had_any = False
        self._since_s: float | None = None
        self._vacancy = Reminder(first_s=PATIENCE_S)

    def look(self, sandboxes: int, waiting: int, now_s: float) -> Line | None:
        """What to log, if anything, when there are so many sandboxes and ``waiting`` triggers without an
        answer.
        """
        if sandboxes:
            return self._somebody(now_s)
        if self._since_s is None:
            self._since_s = now_s
            if self._had_any:
                self._vacancy = Reminder(first_s=0.0)
            self._vacancy.begin(now_s)
        lasted_s = self._vacancy.due(now_s)
        if lasted_s is None:
            return None
        what = (
            f"no sandbox has been here for {lasted_s:.0f} s" if lasted_s >= 1 else "the last sandbox is gone"
        )
        return Line(
            logging.WARNING,
            f"{what}; {waiting} triggers wait, and are answered UNAVAILABLE when they have waited for "
            f"--queue-timeout-s; look whether panels-worker runs with --gateway {self._endpoint}, and what "
            "its "
            "log says",
        )

    def _somebody(self, now_s: float) -> Line | None:
        since_s, told = self._since_s, self._vacancy.told
        self._since_s = None
        self._vacancy.end()
        self._had_any = True
        if since_s is None or not told:
            return None
        return Line(logging.INFO, f"a sandbox is here again, after {now_s - since_s:.1f} s without any")
