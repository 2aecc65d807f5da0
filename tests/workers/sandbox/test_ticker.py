"""How the epoch keeps up with time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_worker.guest.engine import EPOCH_TICK_MS, ticks
from panels_worker.sandbox.ticker import MAX_TICKS, TICK_S, ticks_due


def test_ticks_due_are_whole_and_the_rest_is_kept() -> None:
    due, counted_s = ticks_due(10.0, 0.0, 10.0 + 3.5 * TICK_S)
    assert due == 3
    assert abs(counted_s - (10.0 + 3 * TICK_S)) < 1e-9
    assert ticks_due(counted_s, 0.0, 10.0 + 4.1 * TICK_S)[0] == 1


def test_job_answers_for_no_time_before_it_began() -> None:
    assert ticks_due(10.0, 10.046, 10.05) == (0, 10.046)


def test_time_in_which_a_process_was_stopped_counts_for_little() -> None:
    assert ticks_due(10.0, 0.0, 1_000.0) == (MAX_TICKS, 1_000.0)


@given(
    waits_s=st.lists(st.floats(0.0101, 0.2), min_size=1, max_size=200),
    began_s=st.floats(0.0, 1.0),
    deadline_ms=st.integers(1, 5_000),
)
def test_deadline_is_never_early_and_late_by_no_more_than_a_tick_and_a_wait(
    waits_s: list[float], began_s: float, deadline_ms: int
) -> None:
    """However late the thread wakes, as it does in a process that rests or whose guest calls its host a
    lot.
    """
    now_s = counted_s = passed = 0.0
    for wait_s in waits_s:
        now_s += wait_s
        due, counted_s = ticks_due(counted_s, began_s if now_s >= began_s else 0.0, now_s)
        passed += due if now_s >= began_s else 0
        if passed >= ticks(deadline_ms):
            ran_s = now_s - began_s
            assert ran_s >= deadline_ms / 1e3 - 1e-6
            assert ran_s <= deadline_ms / 1e3 + 2 * EPOCH_TICK_MS / 1e3 + wait_s + TICK_S
            return
