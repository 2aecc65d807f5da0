"""When the log is told of something that lasts: late enough that a short pause is not mentioned, and then
again and again, ever more rarely, so that nobody who looks at a log finds silence.
"""

from __future__ import annotations

from typing import Final

#: By how much each pause between two lines is longer than the one before.
GROWTH: Final = 6.0
#: The longest pause, in seconds.
LONGEST_S: Final = 600.0


class Reminder:
    """A thing that lasts, and when to say so next. Times are monotonic seconds.

    It is said ``first_s`` after ``begin``, and then after pauses that grow by ``GROWTH`` up to ``LONGEST_S``.
    """

    __slots__ = ("_first_s", "_next_s", "_pause_s", "_since_s", "_told")

    def __init__(self, *, first_s: float) -> None:
        self._first_s = first_s
        self._since_s: float | None = None
        self._next_s = 0.0
        self._pause_s = first_s
        self._told = False

    @property
    def told(self) -> bool:
        """Whether it has been said since ``begin``."""
        return self._told

    def begin(self, now_s: float) -> None:
        """It lasts from now on; nothing changes if it has begun already."""
        if self._since_s is None:
            self._since_s = now_s
            self._pause_s = self._first_s
            self._next_s = now_s + self._first_s

    def end(self) -> None:
        """It is over."""
        self._since_s, self._told = None, False

    def due(self, now_s: float) -> float | None:
        """For how many seconds it has lasted, if that is to be said now; else None."""
        if self._since_s is None or now_s < self._next_s:
            return None
        self._told = True
        self._pause_s = min(max(1.0, self._pause_s) * GROWTH, LONGEST_S)
        self._next_s = now_s + self._pause_s
        return now_s - self._since_s
