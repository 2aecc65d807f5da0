"""Random panels, folded in runs of random length, trimmed and reopened at any point, against
a model in plain Python.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panels_gateway.journal import fold, schema
from panels_gateway.journal.fold import Retention
from panels_gateway.journal.folding import Folding
from panels_gateway.journal.journal import StoredPanel
from panels_gateway.journal.records import Batch, Deleted, Key, Record
from panels_gateway.journal.store import Store
from panels_gateway.journal.verify import verify
from tests.gateway.journal.model import (
    NOW_MS,
    Changes,
    Model,
    ModelPanel,
    changed,
    created,
    defined,
    ran,
    source,
)

KEYS = st.sampled_from(["a", "b", "count", "ключ", 'q"\\', ""])
VALUES = st.sampled_from(["1", "null", '"x"', "[1, 2]", '"' + "y" * 40 + '"'])
CHANGES: st.SearchStrategy[Changes] = st.dictionaries(KEYS, st.none() | VALUES, max_size=3)
IDS = st.sampled_from(["p", "q", "r"])
HANDLERS = st.integers(0, 3)
ANSWER_KEYS = st.none() | st.builds(
    Key, st.sampled_from(["", "ann"]), st.sampled_from(["k1", "k2", "k3", "k4"]), st.just(b"f" * 16)
)
#: A clock that jumps both ways.
TIMES = st.sampled_from([0, 1_000, 2_000, 60_000, -50_000])


class FoldMachine(RuleBasedStateMachine):
    """``log`` is all that was appended; ``models`` the panels as they were after the
    batches that are folded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / schema.DATABASE
        schema.prepare(self.path)
        self.log: list[Batch] = []
        self.turn: list[Record] = []
        self.model = Model()  # after `turn`
        self.folded = Model()
        self.retention = Retention()
        self.numbers = 0
        self.now_ms = NOW_MS
        self.chunk = patch.object(fold, "CHUNK_COMMITS", 3)
        self.chunk.start()
        self.open()

    @initialize(
        commits=st.sampled_from([1, 4, 10_000]),
        history_bytes=st.sampled_from([700, 3_000, 1 << 24]),
        age_ms=st.sampled_from([5_000, 1 << 40]),
        answers=st.sampled_from([1, 3, 65_536]),
    )
    def keep(self, commits: int, history_bytes: int, age_ms: int, answers: int) -> None:
        self.retention = Retention(
            commits=commits, history_bytes=history_bytes, age_ms=age_ms, answers=answers, answer_ttl_ms=age_ms
        )
        self.reopen()

    def open(self) -> None:
        self.folding = Folding(self.path, retention=self.retention)
        self.store = Store(self.path)

    def say(self, record: Record) -> None:
        self.turn.append(record)
        self.model.apply(record)

    def pick(self, number: int) -> ModelPanel | None:
        panels = list(self.model.panels.values())
        return panels[number % len(panels)] if panels else None

    @rule(
        panel_id=IDS,
        handlers=st.lists(HANDLERS, max_size=2),
        seq=st.sampled_from([0, 0, 7]),
        state=st.booleans(),
    )
    def create(self, panel_id: str, handlers: list[int], seq: int, state: bool) -> None:
        if any(panel.created.id == panel_id for panel in self.model.panels.values()):
            return
        self.numbers += 1
        for number in (0, *handlers):
            self.say(source(number))
        values = {"a": b"1", "z": b'"zz"'} if state else {}
        self.say(created(self.numbers, panel_id, *handlers, state=values, seq=seq, at_ms=self.now_ms))

    @rule(which=st.integers(0, 9), handlers=st.lists(HANDLERS, max_size=2))
    def define(self, which: int, handlers: list[int]) -> None:
        if (panel := self.pick(which)) is not None:
            for number in handlers:
                self.say(source(number))
            self.say(defined(panel.created.panel, *handlers))

    @rule(which=st.integers(0, 9))
    def delete(self, which: int) -> None:
        if (panel := self.pick(which)) is not None:
            self.say(Deleted(panel.created.panel, self.now_ms))

    @rule(
        which=st.integers(0, 9),
        runs=st.lists(st.tuples(CHANGES, HANDLERS, ANSWER_KEYS), min_size=1, max_size=6),
    )
    def trigger(self, which: int, runs: list[tuple[Changes, int, Key | None]]) -> None:
        if (panel := self.pick(which)) is not None:
            for changes, handler, key in runs:
                self.say(source(handler))
                self.say(
                    ran(
                        panel.created.panel,
                        panel.seq + 1,
                        changes,
                        handler=handler,
                        key=key,
                        at_ms=self.now_ms,
                    )
                )

    @rule(which=st.integers(0, 9), changes=CHANGES)
    def change(self, which: int, changes: Changes) -> None:
        if (panel := self.pick(which)) is not None:
            self.say(changed(panel.created.panel, panel.seq + 1, changes, at_ms=self.now_ms))

    @rule(which=st.integers(0, 9), key=ANSWER_KEYS)
    def fail(self, which: int, key: Key | None) -> None:
        if (panel := self.pick(which)) is not None and key is not None:
            self.say(ran(panel.created.panel, 0, {}, key=key, at_ms=self.now_ms))

    @rule(jump=TIMES)
    def pass_time(self, jump: int) -> None:
        self.now_ms += jump

    @precondition(lambda self: self.turn)
    @rule()
    def end_turn(self) -> None:
        self.log.append(Batch(len(self.log) + 1, 1, self.turn))
        self.turn = []

    @rule(count=st.integers(1, 8), again=st.integers(0, 4))
    def fold(self, count: int, again: int) -> None:
        """Offers some batches that are folded already, and the next ones."""
        position = self.folding.position
        offered = self.log[max(0, position - again) : position + count]
        for batch in offered:
            if batch.position > position:
                for record in batch.records:
                    self.folded.apply(record)
        assert self.folding.fold(offered, now_ms=self.now_ms) == min(len(self.log), position + count)

    @rule()
    def sweep(self) -> None:
        self.folding.sweep(now_ms=self.now_ms)

    @rule()
    def checkpoint(self) -> None:
        assert self.folding.checkpoint()

    @rule()
    def reopen(self) -> None:
        position = self.folding.position
        self.store.close()
        self.folding.close()
        self.open()
        assert self.folding.position == position == self.store.folded().position

    @invariant()
    def the_store_equals_the_model(self) -> None:
        assert self.store.folded().panels == len(self.folded.panels)
        summaries = self.store.summaries(after="", limit=10)
        panels = sorted(self.folded.panels.values(), key=lambda panel: panel.created.id)
        assert [summary.panel for summary in summaries] == [panel.created.panel for panel in panels]
        for summary, panel in zip(summaries, panels, strict=True):
            assert summary.seq == panel.seq
            assert summary.state_bytes == sum(len(key) + len(value) for key, value in panel.state.items())
            loaded = self.store.load(summary.id)
            assert loaded is not None
            self.equal(loaded, panel)
            self.history_equals(panel)

    def equal(self, loaded: StoredPanel, panel: ModelPanel) -> None:
        made = panel.created
        assert (loaded.panel, loaded.id, loaded.epoch, loaded.created_ms) == (
            made.panel,
            made.id,
            made.epoch,
            made.at_ms,
        )
        assert (loaded.definition, loaded.seq, loaded.state) == (panel.definition, panel.seq, panel.state)
        assert loaded.sources == {digest: self.folded.sources[digest] for digest in panel.digests}
        assert loaded.position == self.folding.position
        # what is kept is the youngest, in order
        kept = list(panel.answers.values())[len(panel.answers) - len(loaded.answers) :]
        assert loaded.answers == [(record.key, record.at_ms) for record in kept]
        if self.retention.answers >= 65_536 and self.retention.answer_ttl_ms > 1 << 30:
            assert len(loaded.answers) == len(panel.answers)
        for record in kept:
            assert record.key is not None
            assert self.store.answer(made.panel, record.key.subject, record.key.key) == record

    def history_equals(self, panel: ModelPanel) -> None:
        number = panel.created.panel
        reached = [
            seq
            for seq in range(panel.first, panel.seq + 1)
            if self.store.history(number, since=seq, limit_bytes=1 << 30) is not None
        ]
        floor = reached[0]
        assert reached == list(range(floor, panel.seq + 1))
        if (
            self.retention.commits >= 10_000
            and self.retention.history_bytes > 1 << 20
            and self.retention.age_ms > 1 << 30
        ):
            assert floor == panel.first
        for seq in range(max(0, panel.first - 1), panel.seq + 2):
            within = floor <= seq <= panel.seq
            assert self.store.state_at(number, seq) == (panel.states[seq - panel.first] if within else None)
            history = self.store.history(number, since=seq, limit_bytes=1 << 30)
            if within:
                assert history is not None
                assert (list(history.commits), history.complete) == (panel.commits[seq - panel.first :], True)
        kept = panel.commits[floor - panel.first :]
        for key in ("a", "count"):
            expected = [record for record in reversed(kept) if _changes(record, key)]
            assert self.store.key_history(number, key, limit=100) == expected
            assert self.store.key_history(number, key, limit=1) == expected[:1]

    def teardown(self) -> None:
        findings = verify(self.path, tail=lambda after: self.log[after:], progress=lambda _done, _total: None)
        self.store.close()
        self.folding.close()
        self.chunk.stop()
        self.folder.cleanup()
        assert findings == []


def _changes(record: object, key: str) -> bool:
    from panels_gateway.journal.chunks import mutations_of

    (mutations,) = mutations_of([record])  # type: ignore[list-item]
    return any(mutation.key == key for mutation in mutations)


TestFoldMachine = FoldMachine.TestCase
TestFoldMachine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
