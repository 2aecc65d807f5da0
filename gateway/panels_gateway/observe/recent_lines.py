"""What handlers logged lately, for whoever looks on: lines, and how jobs failed, by panel. Pure.

Unit: lines, and characters, a line counting ``LINE_CHARS`` more than its text. Bound: ``MAX_LINES`` and
``MAX_CHARS`` for a panel, ``MAX_JOB_LINES`` of one job, ``MAX_TOTAL_CHARS`` for all. Overflow policy: the
oldest lines go; above the bound for all, those of the panel that has been silent for the longest time. Lines
of a panel are numbered from 1, those that are not kept too, so that a reader sees by a gap how many it
missed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from panels_shared.limits import KIB, MIB
from panels_shared.outcome import Failed, LogLine

#: Security limits; see the module's docstring.
MAX_LINES: Final = 512
MAX_CHARS: Final = 128 * KIB
MAX_JOB_LINES: Final = 64
MAX_TOTAL_CHARS: Final = 16 * MIB
#: Characters of one line that are kept.
MAX_LINE_CHARS: Final = 8 * KIB
#: What a line counts in addition to its text.
LINE_CHARS: Final = 128

LEVELS: Final = ("debug", "info", "warn", "error")


class Line(NamedTuple):
    """One line. ``number`` is its place among the panel's; ``at_ms`` when the job ended, by the wall clock.
    ``reason`` and ``place`` (line and column, 0 for unknown) belong to a job that failed; its text is then
    the failure's message.
    """

    number: int
    at_ms: int
    tool: str
    level: str
    text: str
    reason: str = ""
    place: tuple[int, int] = (0, 0)


class _Panel:
    __slots__ = ("chars", "last", "lines", "listeners")

    def __init__(self) -> None:
        self.lines: deque[Line] = deque()
        self.chars = 0
        self.last = 0
        self.listeners: dict[Callable[[], None], None] = {}


class RecentLines:
    """See the module's docstring. Panels are named by their number in the journal."""

    def __init__(self) -> None:
        self._panels: OrderedDict[int, _Panel] = OrderedDict()
        self._chars = 0

    def take(self, panel: int, tool: str, log: Sequence[LogLine], failed: Failed | None, at_ms: int) -> None:
        """Keeps what a job logged, and how it failed, if it did."""
        own = self._panels.get(panel)
        if own is None:
            own = self._panels[panel] = _Panel()
        else:
            self._panels.move_to_end(panel)
        spare = max(0, len(log) - MAX_JOB_LINES)
        own.last += spare
        for line in islice(log, spare, None):
            level = LEVELS[line.level] if 0 <= line.level < len(LEVELS) else "info"
            self._add(own, Line(own.last + 1, at_ms, tool, level, line.text[:MAX_LINE_CHARS]))
        if failed is not None:
            text = failed.message[:MAX_LINE_CHARS]
            place = failed.line, failed.column
            self._add(own, Line(own.last + 1, at_ms, tool, "error", text, failed.reason.value, place))
        while self._chars > MAX_TOTAL_CHARS:
            self._drop_oldest()
        for listener in own.listeners:
            listener()

    def _add(self, own: _Panel, line: Line) -> None:
        own.last = line.number
        own.lines.append(line)
        size = LINE_CHARS + len(line.text)
        own.chars += size
        self._chars += size
        while len(own.lines) > MAX_LINES or own.chars > MAX_CHARS:
            self._drop(own)

    def _drop(self, own: _Panel) -> None:
        size = LINE_CHARS + len(own.lines.popleft().text)
        own.chars -= size
        self._chars -= size

    def _drop_oldest(self) -> None:
        """Lets go of the lines of the panel that has been silent for the longest time. One that somebody
        listens to keeps its numbers.
        """
        panel, own = next(iter(self._panels.items()))
        while own.lines:
            self._drop(own)
        if own.listeners:
            self._panels.move_to_end(panel)
        else:
            del self._panels[panel]

    def last(self, panel: int) -> int:
        """The number of the panel's newest line, 0 for none."""
        own = self._panels.get(panel)
        return own.last if own is not None else 0

    def after(self, panel: int, number: int) -> list[Line]:
        """The panel's lines behind line ``number``, as far as they are kept."""
        own = self._panels.get(panel)
        return [line for line in own.lines if line.number > number] if own is not None else []

    def listen(self, panel: int, listener: Callable[[], None]) -> None:
        """Has ``listener`` called whenever the panel has new lines. It may not raise, and adds and removes no
        listeners.
        """
        own = self._panels.get(panel)
        if own is None:
            own = self._panels[panel] = _Panel()
        own.listeners[listener] = None

    def ignore(self, panel: int, listener: Callable[[], None]) -> None:
        """It is called no more."""
        own = self._panels.get(panel)
        if own is not None:
            own.listeners.pop(listener, None)
            if not own.listeners and not own.last:
                del self._panels[panel]
