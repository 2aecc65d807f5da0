"""The journal in memory: the contract, and the switches that tests use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Key
from tests.gateway.journal.batches import SOURCE, created, put, ran
from tests.gateway.journal.contract import Driver, JournalContract


class TestMemoryJournal(JournalContract):
    """Forgets when it is closed, and keeps the rest of the contract."""

    async def open(self, folder: Path) -> Journal:
        return MemoryJournal()


def test_held_batches_become_durable_when_released() -> None:
    async def run() -> None:
        journal = MemoryJournal(hold=True)
        driver = Driver(journal)
        driver.append(SOURCE, created())
        driver.append(ran(1, 1, put("n", "1")))
        driver.append(ran(1, 2, put("n", "2")))
        assert (journal.position, journal.durable) == (3, 0)
        assert journal.backlog_bytes > 0
        journal.release(2)
        assert (journal.durable, driver.durables, driver.foldeds) == (2, [2], [])
        await driver.until(lambda: journal.folded == 2)
        panel = await journal.load("a")
        assert panel is not None
        assert (panel.seq, panel.position) == (1, 2)
        journal.release(3)
        await driver.folded()
        assert (driver.durables, driver.foldeds, journal.backlog_bytes) == ([2, 3], [2, 3], 0)

    asyncio.run(run())


def test_journal_that_is_made_to_fail_takes_nothing_more() -> None:
    async def run() -> None:
        journal = MemoryJournal()
        driver = Driver(journal)
        error = JournalError("the disk is gone")
        journal.fail(error)
        assert driver.failures == [error]
        with pytest.raises(JournalError):
            driver.append(SOURCE)

    asyncio.run(run())


def test_history_and_answers_are_bounded() -> None:
    async def run() -> None:
        journal = MemoryJournal(history_commits=10)
        driver = Driver(journal)
        driver.append(SOURCE, created(n=b"0"))
        for seq in range(1, 100):
            driver.append(ran(1, seq, put("n", str(seq)), key=Key("s", f"k{seq}", b"f" * 16)))
        await driver.folded()
        panel = await journal.load("a")
        assert panel is not None
        assert panel.state == {"n": b"99"}
        assert [key.key for key, _ in panel.answers] == [f"k{seq}" for seq in range(90, 100)]
        assert await journal.history(1, since=70, limit_bytes=1 << 20) is None
        history = await journal.history(1, since=90, limit_bytes=1 << 20)
        assert history is not None
        assert [commit.seq for commit in history.commits] == list(range(91, 100))
        assert await journal.state_at(1, 70) is None
        assert await journal.state_at(1, 95) == {"n": b"95"}

    asyncio.run(run())
