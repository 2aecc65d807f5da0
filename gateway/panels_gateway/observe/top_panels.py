"""Which panels use the most fuel, or fail the most: the first ``SHOWN`` of the last whole window, and all
others. Pure.

A gauge of the last window, and not a counter for each panel: a counter must never go down, so that everybody
who was ever among the first would have to be shown for ever.

Bound: ``MAX_PANELS`` panels are told apart in a window; what the ones above it have counts as the others'.
"""

from __future__ import annotations

from heapq import nlargest
from operator import itemgetter
from typing import Final

#: Panels that are shown.
SHOWN: Final = 20
#: How long it is added up, in seconds.
WINDOW_S: Final = 60.0
#: Panels that are told apart in one window; a bound of memory, and of the time that the look takes.
MAX_PANELS: Final = 8_192


class TopPanels:
    """See the module's docstring; an amount is what is added up. Times are monotonic seconds."""

    __slots__ = ("_ends_s", "_rest", "rest", "top", "used")

    def __init__(self, now_s: float) -> None:
        self._ends_s = now_s + WINDOW_S
        #: The amounts of this window by panel. Whoever charges for every run adds to what is there by itself.
        self.used: dict[str, int] = {}
        self._rest = 0
        #: The amounts of the panels with the most in the last window, the most first, and of all others.
        self.top: list[tuple[str, int]] = []
        self.rest = 0

    def charge(self, panel: str, amount: int) -> None:
        """The panel has ``amount`` more, which is not below zero."""
        used = self.used
        if panel in used or len(used) < MAX_PANELS:
            used[panel] = used.get(panel, 0) + amount
        else:
            self._rest += amount

    def look(self, now_s: float) -> None:
        """Time has passed: a window that is over becomes what is shown."""
        if now_s < self._ends_s:
            return
        used, rest = self.used.copy(), self._rest
        if now_s - self._ends_s >= WINDOW_S:  # nobody looked for so long that it is not of the last window
            used, rest = {}, 0
        self.used.clear()
        self._rest = 0
        self._ends_s = now_s + WINDOW_S
        self.top = nlargest(SHOWN, used.items(), key=itemgetter(1))
        self.rest = rest + sum(used.values()) - sum(amount for _, amount in self.top)
