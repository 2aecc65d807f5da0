"""Replicas, by example and against a model that keeps every past state."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from panels_worker.sandbox.replica import MAX_UNDO, Replica, Replicas, footprint

Changes = dict[str, bytes | None]


def test_replica_takes_jobs_in_order_and_without_gaps() -> None:
    replicas = Replicas()
    replicas.begin(1, 7, {"a": b"1"})
    assert replicas.acquire(1, 7, 1, -1) is None
    assert replicas.acquire(1, 6, 0, -1) is None
    replica = replicas.acquire(1, 7, 0, -1)
    assert replica is not None
    replicas.advance(replica, {"a": b"2"})
    assert replicas.acquire(1, 7, 0, -1) is None
    assert replicas.acquire(1, 7, 1, -1) is replica
    assert replica.state == {"a": b"2"}


def test_replica_rolls_back_what_was_not_committed() -> None:
    replica = Replica(1, {"a": b"1", "b": b"1"})
    replica.advance({"a": b"2"})
    replica.advance({"b": None, "c": b"3"})
    replica.advance({})
    assert replica.rebase(2, 1, 0, {"d": b"4"})
    assert replica.state == {"a": b"2", "b": b"1", "d": b"4"}
    assert (replica.epoch, replica.index, replica.floor) == (2, -1, -1)


def test_replica_refuses_a_position_that_it_forgot() -> None:
    replica = Replica(1, {})
    replica.advance({"a": b"1"})
    replica.advance({"a": b"2"})
    replica.commit(1)
    assert not replica.rebase(2, 1, 0, {})
    assert replica.rebase(2, 1, 1, {})


def test_replica_refuses_a_position_that_it_has_not_reached() -> None:
    assert not Replica(1, {}).rebase(2, 1, 0, {})
    assert not Replica(1, {}).rebase(2, 0, -1, {})
    assert not Replica(1, {}).rebase(2, 1, -2, {})


def test_replica_bounds_its_undo_log() -> None:
    replica = Replica(1, {})
    for index in range(MAX_UNDO + 10):
        replica.advance({"a": b"%d" % index})
    assert replica.floor == 9
    assert not replica.rebase(2, 1, 8, {})


def test_replicas_drop_the_panel_that_rested_longest_when_full() -> None:
    replicas = Replicas(max_bytes=3 * footprint({"k": b"x" * 1000}))
    for panel in (1, 2, 3):
        replicas.begin(panel, 0, {"k": b"x" * 1000})
    assert replicas.acquire(1, 0, 0, -1)
    replicas.begin(4, 0, {"k": b"x" * 1000})
    assert replicas.acquire(2, 0, 0, -1) is None
    assert all(replicas.acquire(panel, 0, 0, -1) for panel in (1, 3, 4))


def test_replicas_keep_a_panel_that_is_larger_than_the_bound() -> None:
    replicas = Replicas(max_bytes=10)
    replicas.begin(1, 0, {"k": b"x" * 1000})
    assert replicas.acquire(1, 0, 0, -1)
    replicas.begin(2, 0, {"k": b"x" * 1000})
    assert len(replicas) == 1


KEYS = st.sampled_from(["a", "b", "c", "dd"])
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=20), max_size=3)
STATES = st.dictionaries(KEYS, st.binary(max_size=20), max_size=3)
PANELS = st.integers(0, 2)


def changed(state: dict[str, bytes], changes: Changes) -> dict[str, bytes]:
    new = {**state, **changes}
    return {key: value for key, value in new.items() if value is not None}


class ModelPanel:
    """What the gateway would know: every state of the epoch, by index + 1."""

    def __init__(self, epoch: int, state: dict[str, bytes]) -> None:
        self.epoch = epoch
        self.states = [state]
        self.committed = -1


class ReplicaMachine(RuleBasedStateMachine):
    """Replicas against whole past states."""

    @initialize(max_bytes=st.sampled_from([400, 1_500, 10**9]))
    def start(self, max_bytes: int) -> None:
        self.replicas = Replicas(max_bytes=max_bytes)
        self.model: dict[int, ModelPanel] = {}
        self.epochs = 0

    @rule(panel=PANELS, state=STATES)
    def snapshot(self, panel: int, state: dict[str, bytes]) -> None:
        self.epochs += 1
        self.replicas.begin(panel, self.epochs, dict(state))
        self.model[panel] = ModelPanel(self.epochs, state)

    @rule(panel=PANELS, changes=CHANGES, commit=st.integers(0, 5))
    def job(self, panel: int, changes: Changes, commit: int) -> None:
        model = self.model.get(panel)
        if model is None:
            assert self.replicas.acquire(panel, 0, 0, -1) is None
            return
        index = len(model.states) - 1
        model.committed = max(model.committed, min(index - 1, model.committed + commit))
        replica = self.replicas.acquire(panel, model.epoch, index, model.committed)
        if replica is None:  # it was dropped for room; the gateway would send a snapshot
            assert self.replicas.max_bytes < 10**9
            del self.model[panel]
            return
        assert replica.state == model.states[-1]
        self.replicas.advance(replica, changes)
        model.states.append(changed(model.states[-1], changes))

    @rule(panel=PANELS, changes=CHANGES, back=st.integers(0, 6), wrong_epoch=st.booleans())
    def delta(self, panel: int, changes: Changes, back: int, wrong_epoch: bool) -> None:
        self.epochs += 1
        model = self.model.get(panel)
        if model is None:
            assert not self.replicas.rebase(panel, self.epochs, 0, -1, changes)
            return
        base = len(model.states) - 2 - back
        ok = self.replicas.rebase(
            panel, self.epochs, model.epoch + (1000 if wrong_epoch else 0), base, changes
        )
        known = base >= model.committed and not wrong_epoch
        if ok:
            assert known
            self.model[panel] = ModelPanel(self.epochs, changed(model.states[base + 1], changes))
        else:
            assert not known or self.replicas.max_bytes < 10**9
            del self.model[panel]

    @rule(panel=PANELS)
    def forget(self, panel: int) -> None:
        self.replicas.drop(panel)
        self.model.pop(panel, None)

    @invariant()
    def account_is_exact(self) -> None:
        if not hasattr(self, "replicas"):
            return
        held = self.replicas._replicas
        for replica in held.values():
            undo = sum(footprint(old) for _, old, _ in replica._undo)
            assert replica.size_bytes == footprint(replica.state) + undo
        assert self.replicas.size_bytes == sum(replica.size_bytes for replica in held.values())
        assert self.replicas.size_bytes <= self.replicas.max_bytes or len(held) == 1


TestReplicas = ReplicaMachine.TestCase
TestReplicas.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
