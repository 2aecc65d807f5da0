"""What a panel was, from the journal and from what is not folded yet, with no gap between the two and nothing
twice.
"""

from __future__ import annotations

import asyncio

import pytest

from panels_gateway.broadcast.messages import decode_mutations
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Changed, Ran
from panels_gateway.kernel.history import Page, events_of, is_addressed, mutations_of, record_bytes
from panels_gateway.kernel.residents import Resident
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import Failed, Reason, Usage
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

PLENTY = 1 << 30


class Unfolded(MemoryJournal):
    """Folds only when it is told to, what is durable."""

    def _schedule(self) -> None:
        return

    def fold(self, position: int) -> None:
        """As far as ``position``."""
        durable, self._durable = self._durable, position
        self._fold()
        self._durable = durable

    def fold_all(self) -> None:
        self._fold()


async def counted(gateway: Gateway, commits: int) -> Resident:
    resident = await gateway.add(state={"n": 0})
    for number in range(1, commits + 1):
        await gateway.put(resident, n=number)
    return resident


def seqs(page: Page | None) -> list[int]:
    assert page is not None
    return [record.seq for record in page.commits]


@pytest.mark.parametrize("folded", range(7))
async def test_since_joins_the_journal_and_the_tail_wherever_they_meet(folded: int) -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    resident = await counted(gateway, 5)
    first = journal.position - 5
    journal.fold(min(journal.position, first + folded))
    for since in range(6):
        page = await gateway.kernel.histories.since(resident, since, limit_bytes=PLENTY)
        assert seqs(page) == list(range(since + 1, 6))
        assert page is not None
        assert page.complete


async def test_since_takes_what_is_folded_while_it_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    resident = await counted(gateway, 4)
    journal.fold(journal.position - 2)
    read = journal.history

    async def slow(panel: int, *, since: int, limit_bytes: int, limit: int | None = None) -> object:
        found = await read(panel, since=since, limit_bytes=limit_bytes, limit=limit)
        if since:
            return found
        journal.fold_all()
        gateway.submit(resident, {"set": {"n": 5}})
        await gateway.settle()
        return found

    monkeypatch.setattr(journal, "history", slow)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=PLENTY)
    assert seqs(page) == [1, 2, 3, 4, 5]
    assert page is not None
    assert page.complete


@pytest.mark.parametrize("folded", [False, True])
async def test_since_is_cut_at_its_limit_and_says_so(folded: bool) -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    resident = await counted(gateway, 6)
    if folded:
        journal.fold_all()
    told: list[int] = []
    pages = 0
    complete = False
    while not complete:
        page = await gateway.kernel.histories.since(resident, len(told), limit_bytes=250)
        told += seqs(page)
        assert page is not None
        complete = page.complete
        pages += 1
    assert told == [1, 2, 3, 4, 5, 6]
    assert pages > 1


async def test_since_has_nothing_where_history_does_not_reach_back() -> None:
    gateway = Gateway(MemoryJournal(history_commits=2))
    resident = await counted(gateway, 9)
    histories = gateway.kernel.histories
    assert await histories.since(resident, 0, limit_bytes=PLENTY) is None
    assert await histories.since(resident, 10, limit_bytes=PLENTY) is None
    assert await histories.since(resident, -1, limit_bytes=PLENTY) is None
    assert seqs(await histories.since(resident, 9, limit_bytes=PLENTY)) == []
    assert seqs(await histories.since(resident, 8, limit_bytes=PLENTY)) == [9]


async def test_since_never_skips_what_was_trimmed_while_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = MemoryJournal(history_commits=2)
    gateway = Gateway(journal)
    resident = await counted(gateway, 4)
    read = journal.history
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=100)
    assert page is not None
    assert not page.complete

    async def trimmed(panel: int, *, since: int, limit_bytes: int, limit: int | None = None) -> object:
        found = await read(panel, since=since, limit_bytes=1)
        if since == 0:
            for number in range(9):
                await gateway.put(resident, n=number)
        return found

    monkeypatch.setattr(journal, "history", trimmed)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=PLENTY)
    assert page is not None
    assert (seqs(page), page.complete) == ([1], False)


async def test_state_at_is_that_of_any_version_even_of_this_turn() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 3)
    gateway.kernel.commits.change(resident, {"n": b"4"}, cause="test", subject=None)
    gateway.kernel.commits.change(resident, {"n": b"5"}, cause="test", subject=None)
    for seq in range(6):
        assert await gateway.kernel.histories.state_at(resident, seq) == {"n": b"%d" % seq}


async def test_state_at_refuses_what_is_yet_to_come_or_gone() -> None:
    gateway = Gateway(MemoryJournal(history_commits=2))
    resident = await counted(gateway, 9)
    for seq, code in ((10, Code.INVALID_REQUEST), (-1, Code.INVALID_REQUEST), (0, Code.HISTORY_GONE)):
        with pytest.raises(RequestError) as caught:
            await gateway.kernel.histories.state_at(resident, seq)
        assert caught.value.code is code


async def test_of_key_has_the_newest_first_and_those_of_this_turn() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 2)
    await gateway.put(resident, other=1)
    gateway.kernel.commits.change(resident, {"n": b"4"}, cause="test", subject=None)
    found = await gateway.kernel.histories.of_key(resident, "n", limit=10)
    assert [record.seq for record in found] == [4, 2, 1]
    assert [record.seq for record in await gateway.kernel.histories.of_key(resident, "n", limit=1)] == [4]


async def test_records_are_told_as_mutations_and_events() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    await gateway.trigger(resident, {"set": {"n": 1}, "emit": {"e": 1, "f": 2}})
    gateway.kernel.commits.change(resident, {}, cause="test", subject=None)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=PLENTY)
    assert page is not None
    ran, changed = page.commits
    assert isinstance(ran, Ran)
    assert isinstance(changed, Changed)
    assert [name for name, _, _ in events_of(ran)] == ["e", "f"]
    assert events_of(changed) == []
    assert [decode_mutations(mutations_of(record))[0].op for record in (ran, changed)] == ["set", "delete"]
    assert record_bytes(ran) > record_bytes(changed) > len(mutations_of(changed))


async def test_record_of_a_failure_has_nothing_to_tell() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: Failed(Usage(), Reason.TIMEOUT, "no")
    resident = await gateway.add()
    await gateway.trigger(resident, key="k")
    record = await gateway.journal.answer(1, "", "k")
    assert record is not None
    assert (mutations_of(record), events_of(record)) == (b"[]", [])
    assert record_bytes(record) > 0
    assert not is_addressed(record)


async def test_record_says_whether_an_event_of_it_is_for_one_subject() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    await gateway.trigger(resident, {"emit": {"e": {"t": "o"}, "f": 1}})
    await gateway.trigger(resident, {"emit": {"e": 1, "f": 1}, "to": {"f": "ada"}})
    gateway.kernel.commits.change(resident, {"n": b"1"}, cause="test", subject=None)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=PLENTY)
    assert page is not None
    assert [is_addressed(record) for record in page.commits] == [False, True, False]
    assert [to for _, _, to in events_of(page.commits[1])] == [None, "ada"]


async def test_reading_gives_way_to_others() -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    resident = await gateway.add(state={"n": 0})
    gateway.submit(resident, {"set": {"n": 1}})
    await gateway.settle()
    reading = asyncio.create_task(gateway.kernel.histories.state_at(resident, 0))
    await gateway.settle()
    assert not reading.done()
    gateway.journal.release(gateway.journal.position)
    assert await reading == {"n": b"0"}


async def test_since_reads_no_more_commits_than_are_wanted() -> None:
    gateway = Gateway()
    resident = await counted(gateway, 9)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=PLENTY, limit=2)
    assert page is not None
    assert [record.seq for record in page.commits] == [1, 2]
    assert not page.complete
