"""When the log should speak of the backlog: what is appended and not folded yet, beside its bound. Pure.

    EASY ── above half ──▶ GROWING ── above the bound ──▶ OVER
    EASY ◀── below a quarter ── GROWING, OVER

Each arrow is one line. It is said again only after the backlog was easy in between, so a backlog that hovers
about the bound does not fill the log.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import Final

from panels_shared.limits import MIB

#: Bytes of records that may wait to be written or folded; above this new triggers are OVERLOADED.
MAX_BACKLOG_BYTES: Final = 256 * MIB


class Level(Enum):
    """How much waits."""

    EASY = "easy"
    GROWING = "growing"
    OVER = "over"


class Pressure:
    """Remembers what was said last. ``bound_bytes`` is what the backlog is kept below."""

    def __init__(self, bound_bytes: int) -> None:
        self._bound_bytes = bound_bytes
        self.level = Level.EASY

    def look(self, backlog_bytes: int) -> tuple[int, str] | None:
        """A level of ``logging`` and a sentence, None where there is nothing new to say."""
        bound = self._bound_bytes
        amounts = f"{backlog_bytes:,} of at most {bound:,} bytes of the log wait to be folded"
        if backlog_bytes > bound and self.level is not Level.OVER:
            self.level = Level.OVER
            return logging.ERROR, f"{amounts}: triggers are refused until the folding process has caught up"
        if backlog_bytes > bound // 2 and self.level is Level.EASY:
            self.level = Level.GROWING
            return logging.WARNING, f"{amounts}: the folding process is slower than what comes in"
        if backlog_bytes < bound // 4 and self.level is not Level.EASY:
            self.level = Level.EASY
            return logging.INFO, f"{amounts}: the folding process has caught up"
        return None
