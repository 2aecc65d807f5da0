"""The list of panels, page by page, at a cost of what a page shows.

    journal (folded) ──summaries──▶ ┐
                                    ├─ by id ─▶ page
    residents.fresh (not folded) ─▶ ┘

Both are in order of ids and both seek to the ranges that somebody may read, so that a page of one panel costs
the same with a hundred panels and with a million. What is awaited is read in the journal's thread, and what
is done between two awaits is bounded by ``LISTED_AT_ONCE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from panels_gateway.access.reach import Reach
from panels_gateway.journal.journal import Journal, Summary
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.panels import stored

#: Panels that are looked at in one step of the loop, and for one page at the most.
LISTED_AT_ONCE: Final = 128
MAX_LOOKED_AT: Final = 4_096


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of panels shows of one. ``title`` and ``kind`` are the definition's."""

    id: str
    kind: str
    title: str | None
    seq: int
    created_ms: int
    clients: int

    @classmethod
    def of(cls, row: Summary) -> Listed:
        """A panel that the journal lists."""
        kind, title = stored.heading(row.definition)
        return cls(row.id, kind, title, row.seq, row.created_ms, 0)

    @classmethod
    def of_resident(cls, resident: Resident) -> Listed:
        """A panel in memory."""
        panel = resident.panel
        made = panel.definition
        return cls(panel.id, made.kind, made.title, panel.seq, panel.created_ms, len(resident.room))


class Listing:
    """See the module's docstring."""

    def __init__(self, residents: Residents, journal: Journal) -> None:
        self._residents = residents
        self._journal = journal

    async def page(self, after: str, limit: int, reach: Reach) -> tuple[list[Listed], str | None]:
        """Up to ``limit`` panels within ``reach`` whose id is greater than ``after``, by id, and where the
        next page begins (None: nowhere). Looks at about ``MAX_LOOKED_AT`` panels at the most, deleted ones
        that the journal still lists among them, so that a page may be short and have a next one.
        """
        residents = self._residents
        found: list[Listed] = []
        looked_at = 0
        at = after
        while looked_at < MAX_LOOKED_AT:
            wanted = min(LISTED_AT_ONCE, limit + 1 - len(found))
            ranges = reach.after(at)
            # before the journal is asked: what is folded meanwhile would be in neither
            fresh = residents.fresh.between(ranges, after=at, limit=wanted)
            rows = await self._journal.summaries(after=at, limit=wanted, ranges=ranges)
            ends = [rows[-1].id] if len(rows) == wanted else []
            if len(fresh) == wanted:
                ends.append(fresh[-1].panel.id)
            end = min(ends, default=None)
            listed: dict[str, Summary | Resident] = {
                row.id: row for row in rows if not residents.is_deleted(row.panel)
            }
            listed |= {resident.panel.id: resident for resident in fresh if not resident.ending}
            looked_at += len(rows) + len(fresh)
            for panel_id in sorted(listed):
                if end is not None and panel_id > end:
                    break
                if len(found) == limit:
                    return found, found[-1].id
                found.append(self._listed(panel_id, listed[panel_id]))
            if end is None:
                return found, None
            at = end
        return found, at

    def _listed(self, panel_id: str, source: Summary | Resident) -> Listed:
        resident = self._residents.peek(panel_id)
        if resident is not None:
            return Listed.of_resident(resident)
        return Listed.of(source) if isinstance(source, Summary) else Listed.of_resident(source)
