"""What every journal must do, whatever it is made of.

A module of tests subclasses ``JournalContract`` for its store; pytest then finds these tests there. Nothing
here knows of files, segments or rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panels_gateway.journal.journal import FencedError, Journal, JournalError, PositionError, Waiting
from panels_gateway.journal.records import (
    NEVER,
    Batch,
    Changed,
    Defined,
    Deleted,
    Fired,
    Key,
    Ran,
    Record,
    Revoked,
    Unparked,
    Unrevoked,
    replace_image,
)
from tests.gateway.journal.batches import DIGEST, SOURCE, created, drop, parked, put, ran, returned

KEY = Key("alice", "k1", b"f" * 16)


class Driver:
    """A journal as the kernel uses it: it appends what comes next, and can wait for
    what has been appended.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.durables: list[int] = []
        self.foldeds: list[int] = []
        self.failures: list[JournalError] = []
        self._changed = asyncio.Event()
        journal.on_durable = self._note(self.durables)
        journal.on_folded = self._note(self.foldeds)
        journal.on_failed = self._note(self.failures)

    def append(self, *records: Record) -> int:
        batch = Batch(self.journal.position + 1, self.journal.fence, list(records))
        self.journal.append(batch)
        return batch.position

    async def until(self, look: Callable[[], bool]) -> None:
        """Returns when ``look`` is true, which it can become only by what the journal calls back."""
        async with asyncio.timeout(30):
            while not look():
                self._changed.clear()
                await self._changed.wait()

    async def durable(self) -> None:
        await self.until(lambda: self.journal.durable == self.journal.position)

    async def folded(self) -> None:
        await self.until(lambda: self.journal.folded == self.journal.position)

    def _note(self, values: list) -> Callable[..., None]:  # type: ignore[type-arg]
        def note(value: object) -> None:
            values.append(value)
            self._changed.set()

        return note


class JournalContract:
    """The tests.

    ``open`` opens a journal on ``folder``; ``durable`` says that one that is opened again remembers.
    """

    remembers: ClassVar[bool] = False

    async def open(self, folder: Path) -> Journal:
        raise NotImplementedError

    @asynccontextmanager
    async def driving(self, folder: Path) -> AsyncIterator[Driver]:
        driver = Driver(await self.open(folder))
        try:
            yield driver
        finally:
            await driver.journal.close()

    def run(self, folder: Path, test: Callable[[Driver], Awaitable[None]]) -> None:
        async def run() -> None:
            async with self.driving(folder) as driver:
                await test(driver)

        asyncio.run(run())

    # -- appending

    def test_batch_becomes_durable_and_then_folded(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            journal = driver.journal
            before = journal.position
            position = driver.append(SOURCE, created())
            assert position == journal.position == before + 1
            await driver.durable()
            await driver.folded()
            assert driver.foldeds[-1] == position
            await driver.until(lambda: journal.backlog_bytes == 0)

        self.run(tmp_path, test)

    def test_callbacks_go_up_and_folded_never_passes_durable(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            for seq in range(1, 40):
                driver.append(ran(1, seq, put("n", str(seq))))
                assert driver.journal.folded <= driver.journal.durable <= driver.journal.position
                if seq % 7 == 0:
                    await asyncio.sleep(0)
            await driver.folded()
            assert driver.foldeds == sorted(set(driver.foldeds))
            assert driver.durables == sorted(set(driver.durables))

        self.run(tmp_path, test)

    def test_callbacks_do_not_come_within_append(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            for panel in range(1, 30):
                before = list(driver.durables), list(driver.foldeds)
                driver.append(SOURCE, created(panel, f"p{panel}"))
                assert (driver.durables, driver.foldeds) == before
            await driver.folded()

        self.run(tmp_path, test)

    @pytest.mark.parametrize("step", [-1, 0, 2])
    def test_batch_that_is_not_the_next_is_refused(self, tmp_path: Path, step: int) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            position = driver.journal.position + step
            with pytest.raises(PositionError, match=f"expected a batch of position .*, got {position}"):
                driver.journal.append(Batch(position, driver.journal.fence, []))

        self.run(tmp_path, test)

    @pytest.mark.parametrize("step", [-1, 1])
    def test_batch_of_another_writer_is_refused(self, tmp_path: Path, step: int) -> None:
        async def test(driver: Driver) -> None:
            fence = driver.journal.fence + step
            with pytest.raises(FencedError, match=f"expected a batch under fence .*, got {fence}"):
                driver.journal.append(Batch(driver.journal.position + 1, fence, []))

        self.run(tmp_path, test)

    def test_closed_journal_takes_nothing_and_closes_again(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            await driver.journal.close()
            assert driver.journal.durable == 1
            await driver.journal.close()
            with pytest.raises(JournalError, match="closed"):
                driver.append(Deleted(1, 5))

        self.run(tmp_path, test)

    # -- reading

    def test_panel_comes_back_whole(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(seq=4, a=b"1", b=b"[2]"))
            driver.append(ran(1, 5, put("a", '{"x": 1.0}')), ran(1, 6, drop("b"), key=KEY, at_ms=77))
            position = driver.append(Changed(1, 7, 3_000, "replace", "bob", put("é", '"ü"')))
            await driver.folded()
            panel = await driver.journal.load("a")
            assert panel is not None
            assert (panel.panel, panel.id, panel.epoch, panel.created_ms) == (1, "a", "e1", 1_001)
            assert (panel.seq, panel.position) == (7, position)
            assert panel.state == {"a": b'{"x": 1.0}', "é": '"ü"'.encode()}
            assert panel.sources == {DIGEST: SOURCE}
            assert panel.answers == [(KEY, 77)]

        self.run(tmp_path, test)

    def test_panel_that_is_not_there_is_none(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            journal = driver.journal
            assert await journal.load("nobody") is None
            assert await journal.history(9, since=0, limit_bytes=100) is None
            assert await journal.state_at(9, 0) is None
            assert await journal.answer(9, "alice", "k1") is None
            assert await journal.summaries(after="", limit=10) == []

        self.run(tmp_path, test)

    def test_deleted_panel_is_gone_and_its_id_is_free(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(1, "a", x=b"1"))
            driver.append(ran(1, 1, put("x", "2"), key=KEY))
            driver.append(Deleted(1, 5))
            await driver.folded()
            assert await driver.journal.load("a") is None
            assert await driver.journal.answer(1, "alice", "k1") is None
            driver.append(SOURCE, created(2, "a", y=b"3"))
            await driver.folded()
            panel = await driver.journal.load("a")
            assert panel is not None
            assert (panel.panel, panel.epoch, panel.seq, panel.state) == (2, "e2", 0, {"y": b"3"})

        self.run(tmp_path, test)

    def test_definition_is_the_last_one(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            driver.append(Defined(1, 9, b'{"tools":[1]}'))
            await driver.folded()
            panel = await driver.journal.load("a")
            assert panel is not None
            assert panel.definition == b'{"tools":[1]}'
            assert panel.sources == {}

        self.run(tmp_path, test)

    def test_summaries_come_by_id_in_pages(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            names = ["b", "a", "é", "c", "B"]
            driver.append(SOURCE, *[created(panel, name, kk=b"12") for panel, name in enumerate(names, 1)])
            driver.append(ran(2, 1, put("x", "3")))
            await driver.folded()
            found = []
            after = ""
            while page := await driver.journal.summaries(after=after, limit=2):
                assert len(page) <= 2
                found += page
                after = page[-1].id
            assert [summary.id for summary in found] == sorted(names)
            ranges = [("A", "Z"), ("a", "b"), ("é", "é")]
            for limit, after, within in (
                (9, "", ["B", "a", "b", "é"]),
                (2, "B", ["a", "b"]),
                (9, "b", ["é"]),
            ):
                some = await driver.journal.summaries(after=after, limit=limit, ranges=ranges)
                assert [summary.id for summary in some] == within
            assert await driver.journal.summaries(after="", limit=9, ranges=[]) == []
            (a,) = [summary for summary in found if summary.id == "a"]
            assert (a.panel, a.epoch, a.seq, a.state_bytes, a.definition) == (2, "e2", 1, 6, b'{"tools":[]}')

        self.run(tmp_path, test)

    def test_history_has_every_commit_once_and_in_order(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(seq=2))
            commits: list[Ran | Changed] = []
            for seq in range(3, 30):
                commits.append(
                    ran(1, seq, put("n", str(seq)))
                    if seq % 3
                    else Changed(1, seq, 1, "revert", "", put("n", "0"))
                )
                driver.append(commits[-1], ran(1, 0, key=KEY))
            await driver.folded()
            for since in range(2, 30):
                history = await driver.journal.history(1, since=since, limit_bytes=1 << 20)
                assert history is not None
                assert list(history.commits) == commits[since - 2 :]
                assert history.complete
            assert await driver.journal.history(1, since=1, limit_bytes=1 << 20) is None

        self.run(tmp_path, test)

    def test_history_comes_in_pieces(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            commits = [ran(1, seq, put("n", str(seq))) for seq in range(1, 30)]
            for commit in commits:
                driver.append(commit)
            await driver.folded()
            found: list[Ran | Changed] = []
            pieces = 0
            complete = False
            while not complete:
                history = await driver.journal.history(1, since=len(found), limit_bytes=400)
                assert history is not None
                assert history.commits
                found += history.commits
                complete = history.complete
                pieces += 1
            assert found == commits
            assert pieces > 5
            # one commit at least, or nobody would ever get past a large one
            one = await driver.journal.history(1, since=3, limit_bytes=1)
            assert one is not None
            assert list(one.commits) == [commits[3]]
            for limit in (1, 3, 40):
                some = await driver.journal.history(1, since=20, limit_bytes=1 << 20, limit=limit)
                assert some is not None
                assert list(some.commits) == commits[20 : 20 + limit]
                assert some.complete == (limit == 40)

        self.run(tmp_path, test)

    def test_answer_is_the_record_of_the_trigger(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created())
            other = Key("bob", "k1", b"g" * 16)
            with_effects, without = ran(1, 1, put("a", "1"), key=KEY), ran(1, 0, key=other)
            driver.append(with_effects, without)
            await driver.folded()
            assert await driver.journal.answer(1, "alice", "k1") == with_effects
            assert await driver.journal.answer(1, "bob", "k1") == without
            assert await driver.journal.answer(1, "alice", "k2") is None
            assert await driver.journal.answer(2, "alice", "k1") is None

        self.run(tmp_path, test)

    def test_source_is_kept_while_a_commit_names_it(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(), ran(1, 1, put("a", "1")))
            await driver.folded()
            assert await driver.journal.source(SOURCE.digest) == SOURCE
            assert await driver.journal.source(b"x" * 32) is None

        self.run(tmp_path, test)

    @given(data=st.data())
    @settings(
        max_examples=5,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    def test_state_at_any_version_is_what_it_was(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        changes = data.draw(
            st.lists(
                st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 99)), min_size=1, max_size=25
            )
        )
        per_batch = data.draw(st.integers(1, 5))

        async def test(driver: Driver) -> None:
            state = {"a": b"0"}
            states = [dict(state)]
            commits = []
            for seq, (key, value) in enumerate(changes, 1):
                commits.append(ran(1, seq, drop(key) if value is None else put(key, str(value))))
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = b"%d" % value
                states.append(dict(state))
            driver.append(SOURCE, created(a=b"0"))
            for start in range(0, len(commits), per_batch):
                driver.append(*commits[start : start + per_batch])
            await driver.folded()
            for seq, expected in enumerate(states):
                assert await driver.journal.state_at(1, seq) == expected
            assert await driver.journal.state_at(1, len(states)) is None
            panel = await driver.journal.load("a")
            assert panel is not None
            assert panel.state == states[-1]

        self.run(tmp_path_factory.mktemp("journal"), test)

    def test_reads_go_on_while_batches_are_appended(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(n=b"0"))
            await driver.folded()

            async def read() -> None:
                panel = await driver.journal.load("a")
                assert panel is not None
                # one moment, whichever: state, version and position belong together
                assert panel.state == {"n": b"%d" % panel.seq}
                assert panel.position == panel.seq + 1

            for seq in range(1, 60):
                driver.append(ran(1, seq, put("n", str(seq))))
                await read()
            await driver.folded()
            await read()

        self.run(tmp_path, test)

    # -- handlers that wait

    @pytest.mark.parametrize("together", [True, False])
    def test_suspension_comes_back_with_its_answers_and_without_its_image(
        self, tmp_path: Path, together: bool
    ) -> None:
        async def test(driver: Driver) -> None:
            record = parked(1, 2**47, 1, 2, key=KEY)
            records: list[Record] = [
                SOURCE,
                created(),
                record,
                returned(1, 2**47, 2),
                Fired(1, "t", 5),
                Fired(1, "t", 7),
            ]
            if together:
                driver.append(*records)
            else:
                for each in records:
                    driver.append(each)
                    await driver.folded()
            await driver.folded()
            panel = await driver.journal.load("a")
            assert panel is not None
            assert panel.waiting == [
                Waiting(replace_image(record, b""), (returned(1, 2**47, 2),), len(record.image))
            ]
            assert panel.fired == {"t": 7}
            found = await driver.journal.waiting(1, 2**47)
            assert found == Waiting(record, (returned(1, 2**47, 2),), len(record.image))
            assert await driver.journal.waiting(1, 3) is None
            assert await driver.journal.waiting(2, 2**47) is None

        self.run(tmp_path, test)

    @pytest.mark.parametrize("together", [True, False])
    def test_later_step_replaces_the_image_and_drops_answers_to_calls_that_are_not_open(
        self, tmp_path: Path, together: bool
    ) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(), parked(1, 7, 1, 2))
            driver.append(returned(1, 7, 1), returned(1, 7, 2))
            if not together:
                await driver.folded()
            later = parked(1, 7, 2, 3, image=b"later", steps=2)
            driver.append(later)
            await driver.folded()
            assert await driver.journal.waiting(1, 7) == Waiting(later, (returned(1, 7, 2),), len(b"later"))
            driver.append(Unparked(1, 7))
            await driver.folded()
            assert await driver.journal.waiting(1, 7) is None
            panel = await driver.journal.load("a")
            assert panel is not None
            assert panel.waiting == []

        self.run(tmp_path, test)

    def test_suspension_that_ended_within_a_run_leaves_nothing(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(), parked(1, 7, 1), returned(1, 7, 1), Unparked(1, 7))
            await driver.folded()
            assert await driver.journal.waiting(1, 7) is None
            assert await driver.journal.active_panels() == []

        self.run(tmp_path, test)

    def test_panels_that_go_on_by_themselves_are_listed_by_deadline_and_then_by_id(
        self, tmp_path: Path
    ) -> None:
        async def test(driver: Driver) -> None:
            names = ["d", "b", "a", "c", "e"]
            driver.append(SOURCE, *[created(number, name) for number, name in enumerate(names, 1)])
            driver.append(
                parked(1, 1, 1, deadline_ms=300), parked(1, 2, 1, deadline_ms=100),
                parked(2, 3, 1, deadline_ms=200), parked(4, 4, 1, deadline_ms=150),
                parked(5, 5, 1, deadline_ms=50),
                Fired(2, "t", 1), Fired(3, "t", 1),
            )  # fmt: skip
            driver.append(Deleted(5, 9))
            await driver.folded()
            journal = driver.journal
            assert await journal.active_panels() == ["d", "c", "b", "a"]
            driver.append(Unparked(1, 2), Unparked(2, 3))
            await driver.folded()
            assert await journal.active_panels() == ["c", "d", "a", "b"]
            driver.append(Unparked(1, 1), Unparked(4, 4))
            await driver.folded()
            assert await journal.active_panels() == ["a", "b"]

        self.run(tmp_path, test)

    @pytest.mark.parametrize("together", [True, False])
    def test_due_times_of_a_tool_that_was_removed_go_away(self, tmp_path: Path, together: bool) -> None:
        async def test(driver: Driver) -> None:
            driver.append(SOURCE, created(), Fired(1, "t", 5), Fired(1, "u", 6))
            if not together:
                await driver.folded()
            driver.append(Fired(1, "t", NEVER))
            await driver.folded()
            panel = await driver.journal.load("a")
            assert panel is not None
            assert panel.fired == {"u": 6}

        self.run(tmp_path, test)

    def test_suspensions_are_there_when_the_journal_is_opened_again(self, tmp_path: Path) -> None:
        if not self.remembers:
            return

        async def run() -> None:
            record = parked(1, 7, 1, 2)
            async with self.driving(tmp_path) as driver:
                driver.append(SOURCE, created(), record, Fired(1, "t", 5))
                driver.append(returned(1, 7, 1))
            async with self.driving(tmp_path) as driver:
                assert await driver.journal.waiting(1, 7) == Waiting(
                    record, (returned(1, 7, 1),), len(record.image)
                )
                assert await driver.journal.active_panels() == ["a"]
                panel = await driver.journal.load("a")
                assert panel is not None
                assert panel.fired == {"t": 5}

        asyncio.run(run())

    # -- revocations

    def test_last_record_of_a_revocation_holds(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            far = 1 << 50
            first, again = Revoked("a", 1, far, "token"), Revoked("a", 2, far + 1, "token")
            other, gone = Revoked("b", 1, far, None, "ann", 5), Revoked("c", 1, far, "gone")
            driver.append(first, other, gone)
            await driver.folded()
            assert await driver.journal.revocations() == [first, other, gone]
            driver.append(again, Unrevoked("c"), Unrevoked("never"))
            await driver.folded()
            assert await driver.journal.revocations() == [again, other]
            driver.append(gone, Unrevoked("c"), Unrevoked("b"), other)
            await driver.folded()
            assert await driver.journal.revocations() == [again, other]

        self.run(tmp_path, test)

    def test_revocations_are_there_when_the_journal_is_opened_again(self, tmp_path: Path) -> None:
        if not self.remembers:
            return

        async def run() -> None:
            record = Revoked("a", 1, 1 << 50, "token")
            async with self.driving(tmp_path) as driver:
                driver.append(record, Revoked("ended", 1, 2, "another"))
            async with self.driving(tmp_path) as driver:
                assert await driver.journal.revocations() == [record]

        asyncio.run(run())

    # -- being alive

    def test_ping_writes_nothing_and_comes_behind_what_was_appended(self, tmp_path: Path) -> None:
        async def test(driver: Driver) -> None:
            journal = driver.journal
            await journal.ping()
            position = driver.append(SOURCE, created())
            await journal.ping()
            assert journal.durable == position == journal.position
            await driver.folded()
            before = journal.backlog_bytes
            for _ in range(20):
                await journal.ping()
            assert (journal.position, journal.backlog_bytes) == (position, before)

        self.run(tmp_path, test)

    def test_journal_that_has_been_closed_answers_no_ping(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with self.driving(tmp_path) as driver:
                pass
            with pytest.raises(JournalError):
                await driver.journal.ping()

        asyncio.run(run())

    # -- opening again

    def test_journal_that_is_opened_again_goes_on(self, tmp_path: Path) -> None:
        if not self.remembers:
            return

        async def run() -> None:
            fences = []
            incarnations = set()
            for seq in range(1, 4):
                async with self.driving(tmp_path) as driver:
                    if seq == 1:
                        driver.append(SOURCE, created(7, "a"))
                    assert driver.journal.position == seq
                    assert driver.journal.last_panel == (7 if seq > 1 else 0)
                    driver.append(ran(7, seq, put("n", str(seq)), key=Key("s", f"k{seq}", b"f" * 16)))
                    fences.append(driver.journal.fence)
                    incarnations.add(driver.journal.incarnation)
            assert fences == sorted(set(fences))
            assert len(incarnations) == 1
            async with self.driving(tmp_path) as driver:
                panel = await driver.journal.load("a")
                assert panel is not None
                assert (panel.seq, panel.state) == (3, {"n": b"3"})
                assert [key.key for key, _ in panel.answers] == ["k1", "k2", "k3"]
                history = await driver.journal.history(7, since=0, limit_bytes=1 << 20)
                assert history is not None
                assert [commit.seq for commit in history.commits] == [1, 2, 3]

        asyncio.run(run())
