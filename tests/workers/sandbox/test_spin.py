"""The adaptive spin."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_worker.sandbox.spin import PATIENCE, REST, Spin


def test_spin_sleeps_at_first() -> None:
    assert Spin(200.0).budget_us == 0.0


def test_spin_looks_after_a_short_gap() -> None:
    spin = Spin(200.0)
    spin.waited(150.0)
    assert spin.budget_us == 200.0


def test_spin_stops_after_gaps_that_outlast_it() -> None:
    spin = Spin(200.0)
    spin.waited(10.0)
    for _ in range(PATIENCE):
        assert spin.budget_us == 200.0
        spin.waited(10_000.0)
    assert spin.budget_us == 0.0


def test_spin_rests_when_somebody_else_wants_the_cpu() -> None:
    spin = Spin(200.0)
    spin.waited(10.0)
    spin.disturbed()
    for _ in range(REST):
        assert spin.budget_us == 0.0
        spin.waited(10.0)
    assert spin.budget_us == 200.0


@given(st.lists(st.floats(0.001, 1e9)))
def test_spin_never_looks_when_it_is_off(gaps: list[float]) -> None:
    spin = Spin(0.0)
    for gap_us in gaps:
        spin.waited(gap_us)
        assert spin.budget_us == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_spin_wastes_at_most_its_patience_between_short_gaps(gaps: list[float]) -> None:
    spin = Spin(200.0)
    wasted = 0
    for gap_us in gaps:
        wasted = wasted + 1 if spin.budget_us > 0 and gap_us > 200.0 else (0 if gap_us <= 200.0 else wasted)
        spin.waited(gap_us)
        assert wasted <= PATIENCE
