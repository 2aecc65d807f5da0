"""A page of the list has what is stored and what is not, in order, at a cost of what it shows."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from panels_gateway.access.reach import EVERYTHING, Reach
from panels_gateway.journal.journal import Summary
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel import listing as module
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import Resident, ResidentLimits
from panels_shared.names import Pattern
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


class Unfolded(MemoryJournal):
    """Folds only when it is told to, and counts the rows that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def _schedule(self) -> None:
        return

    def fold(self) -> None:
        self._fold()

    async def summaries(
        self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
    ) -> list[Summary]:
        found = await super().summaries(after=after, limit=limit, ranges=ranges)
        self.rows += len(found)
        return found


def reach(*patterns: str) -> Reach:
    return Reach.of(map(Pattern.of, patterns))


async def listed(gateway: Gateway, limit: int = 1_000, within: Reach = EVERYTHING) -> list[str]:
    """All pages of the list."""
    found: list[str] = []
    at: str | None = ""
    while at is not None:
        page, at = await gateway.kernel.listing.page(at, limit, within)
        assert len(page) <= limit
        found += [panel.id for panel in page]
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_page_merges_what_is_stored_with_what_is_not_folded(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTED_AT_ONCE", 2)
    journal = Unfolded()
    gateway = Gateway(journal)
    made: dict[str, Resident] = {}
    for panel_id in "cagei":
        made[panel_id] = await gateway.add(panel_id)
    journal.fold()
    for panel_id in "hbdz":
        made[panel_id] = await gateway.add(panel_id)
    for panel_id in "gd":
        gateway.kernel.making.delete(made[panel_id])
    await gateway.settle()
    some = reach("a", "c", "d", "e", "f*", "g*", "h", "i")
    assert await listed(gateway, limit) == list("abcehiz")
    assert await listed(gateway, limit, some) == list("acehi")
    assert await listed(gateway, limit, reach()) == []
    journal.fold()
    assert await listed(gateway, limit) == list("abcehiz")
    assert await listed(gateway, limit, some) == list("acehi")


async def test_page_shows_the_present_whether_in_memory_or_not() -> None:
    gateway = Gateway(limits=KernelLimits(residents=ResidentLimits(bytes=0)))
    await gateway.add("p", title="T")
    await gateway.put(await gateway.open(), n=1)
    assert gateway.kernel.residents.peek("p") is None
    ((stored,), _) = await gateway.kernel.listing.page("", 9, EVERYTHING)
    gateway.connect(await gateway.open())
    ((resident,), _) = await gateway.kernel.listing.page("", 9, EVERYTHING)
    assert (stored.seq, stored.title, stored.kind, stored.clients) == (1, "T", "test", 0)
    assert (resident.seq, resident.title, resident.kind, resident.clients) == (1, "T", "test", 1)
    assert stored.created_ms == resident.created_ms


async def test_page_reads_no_more_than_it_shows_and_one() -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    for n in range(40):
        await gateway.add(f"a-{n:02}")
    await gateway.add("z")
    journal.fold()
    for within, shown in ((EVERYTHING, ["a-00", "a-01"]), (reach("a-39", "a-20", "z"), ["a-20", "a-39"])):
        journal.rows = 0
        page, following = await gateway.kernel.listing.page("", 2, within)
        assert [panel.id for panel in page] == shown
        assert following == shown[-1]
        assert journal.rows == 3
    journal.rows = 0
    page, following = await gateway.kernel.listing.page("", 2, reach("z*"))
    assert ([panel.id for panel in page], following, journal.rows) == (["z"], None, 1)


async def test_page_has_what_is_folded_while_it_is_read() -> None:
    class Late(Unfolded):
        async def summaries(
            self, *, after: str, limit: int, ranges: Sequence[tuple[str, str]] | None = None
        ) -> list[Summary]:
            found = await super().summaries(after=after, limit=limit, ranges=ranges)
            self.fold()
            return found

    gateway = Gateway(Late())
    await gateway.add("p")
    assert await listed(gateway) == ["p"]


async def test_page_looks_at_a_bounded_number_of_deleted_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED_AT_ONCE", 2)
    monkeypatch.setattr(module, "MAX_LOOKED_AT", 4)
    journal = Unfolded()
    gateway = Gateway(journal)
    made = [await gateway.add(panel_id) for panel_id in "abcdefg"]
    journal.fold()
    for resident in made[:-1]:
        gateway.kernel.making.delete(resident)
    await gateway.settle()
    page, following = await gateway.kernel.listing.page("", 9, EVERYTHING)
    assert (page, following) == ([], "d")
    assert await listed(gateway, 9) == ["g"]
