"""A circuit breaker: its table, and that no order of events leaves it stuck or lets too much through."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from panels_gateway.panels.breaker import Breaker, BreakerLimits

LIMITS = BreakerLimits(failures=3, backoff_s=1.0, max_backoff_s=4.0)


def opened() -> Breaker:
    breaker = Breaker(LIMITS, b"d")
    assert [breaker.failed(object(), 0.0) for _ in range(3)] == [False, False, True]
    return breaker


def test_breaker_lets_everything_through_until_so_many_failures_in_a_row() -> None:
    breaker = Breaker(LIMITS, b"d")
    assert not breaker.failed(object(), 0.0)
    assert not breaker.failed(object(), 0.0)
    assert not breaker.is_open
    assert breaker.admit(object(), 0.0) == 0.0


def test_open_breaker_lets_one_probe_through_for_each_back_off() -> None:
    breaker = opened()
    assert breaker.admit(object(), 0.25) == 0.75
    assert breaker.admit(object(), 1.0) == 0.0
    assert breaker.admit(object(), 1.0) == 1.0, "the probe has not ended"
    assert breaker.admit(object(), 2.0) == 0.0, "a probe that is never heard of again costs nothing"


@pytest.mark.parametrize("probes", [1, 2, 3, 9])
def test_back_off_doubles_with_each_probe_that_fails_up_to_its_bound(probes: int) -> None:
    breaker, now = opened(), 0.0
    for _ in range(probes):
        now = breaker.until_s
        probe = object()
        assert breaker.admit(probe, now) == 0.0
        assert not breaker.failed(probe, now), "it was open already"
    assert breaker.until_s - now == min(4.0, 2.0**probes)
    assert breaker.failures == 3 + probes


def test_failures_of_what_ran_before_it_opened_do_not_count() -> None:
    breaker = opened()
    for _ in range(100):
        breaker.failed(object(), 0.5)
    assert (breaker.until_s, breaker.failures) == (1.0, 3)


class Machine(RuleBasedStateMachine):
    """Triggers come, run and end in any order; against it stands a count of what was let through."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(LIMITS, b"d")
        self.now_s = 0.0
        self.running: list[object] = []
        self.let_through_s: list[float] = []

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 9.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def come(self) -> None:
        run, was_open = object(), self.breaker.is_open
        wait_s = self.breaker.admit(run, self.now_s)
        assert 0.0 <= wait_s <= LIMITS.max_backoff_s, "whoever is refused is told when, and it is bounded"
        if wait_s:
            assert was_open
            return
        self.running.append(run)
        if was_open:
            self.let_through_s.append(self.now_s)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        was_open = self.breaker.is_open
        run = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        opened_now = self.breaker.failed(run, self.now_s)
        assert opened_now == (self.breaker.is_open and not was_open)
        if opened_now:
            self.let_through_s.clear()

    @precondition(lambda self: self.running)
    @rule()
    def vanish(self) -> None:
        self.running.pop()

    @invariant()
    def open_breaker_lets_through_at_most_one_in_each_back_off(self) -> None:
        gaps = [b - a for a, b in zip(self.let_through_s, self.let_through_s[1:], strict=False)]
        assert all(gap >= LIMITS.backoff_s for gap in gaps)

    @invariant()
    def breaker_opens_at_the_bound_and_not_before(self) -> None:
        assert self.breaker.is_open == (self.breaker.failures >= LIMITS.failures)
        if self.breaker.is_open:
            assert self.breaker.until_s <= self.now_s + LIMITS.max_backoff_s


TestMachine = Machine.TestCase
