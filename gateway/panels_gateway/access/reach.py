"""The ids that somebody may reach, as ranges in the order of ids, so that a list can seek to them.

A token names panels by up to 256 patterns. Asking each pattern about each panel makes a list cost (panels ×
patterns); ranges cost one search for an id, and one seek for each range that has anything to show.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from panels_shared.names import Pattern

#: Comes behind every character that an id can have.
_BEHIND: Final = "\x7f"

#: The first and the last id of a range, both in it.
Range = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reach:
    """Ranges of ids, in order, none of which overlaps another. At most one for each pattern."""

    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, patterns: Iterable[Pattern]) -> Self:
        """The ids that at least one of ``patterns`` means."""
        wanted = sorted(
            (pattern.text, pattern.text + _BEHIND if pattern.is_prefix else pattern.text)
            for pattern in patterns
        )
        ranges: list[Range] = []
        for first, last in wanted:
            # two patterns are apart, or one has the other in it; of those that begin alike the widest is last
            if ranges and ranges[-1][0] == first:
                ranges[-1] = (first, last)
            elif not ranges or first > ranges[-1][1]:
                ranges.append((first, last))
        return cls(tuple(ranges))

    def covers(self, panel_id: str) -> bool:
        """Whether the id is in one of the ranges. One search, however many there are."""
        index = bisect_right(self.ranges, panel_id, key=_first) - 1
        return index >= 0 and panel_id <= self.ranges[index][1]

    def after(self, panel_id: str) -> Sequence[Range]:
        """The ranges that have ids greater than ``panel_id``."""
        return self.ranges[bisect_right(self.ranges, panel_id, key=_last) :]


def _first(ids: Range) -> str:
    return ids[0]


def _last(ids: Range) -> str:
    return ids[1]


#: Every id.
EVERYTHING: Final = Reach((("", _BEHIND),))
