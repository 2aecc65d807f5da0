"""Which panels use the most fuel, at a bounded cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.observe.top_panels import MAX_PANELS, SHOWN, WINDOW_S, TopPanels


def test_the_last_whole_window_is_shown_and_the_one_that_runs_is_not() -> None:
    top = TopPanels(0.0)
    top.charge("a", 3)
    top.look(WINDOW_S - 1)
    assert (top.top, top.rest) == ([], 0)
    top.charge("b", 5)
    top.charge("a", 4)
    top.look(WINDOW_S)
    assert (top.top, top.rest) == ([("a", 7), ("b", 5)], 0)
    top.charge("c", 1)
    top.look(2 * WINDOW_S)
    assert top.top == [("c", 1)]


def test_what_is_older_than_the_last_window_is_not_shown() -> None:
    top = TopPanels(0.0)
    top.charge("a", 3)
    top.look(2 * WINDOW_S)
    assert (top.top, top.rest) == ([], 0)


@given(st.lists(st.tuples(st.integers(0, 3 * SHOWN), st.integers(0, 1_000)), max_size=300))
def test_the_first_use_no_less_than_all_others_and_nothing_is_lost(charges: list[tuple[int, int]]) -> None:
    top = TopPanels(0.0)
    used: dict[str, int] = {}
    for number, fuel in charges:
        top.charge(f"p{number}", fuel)
        used[f"p{number}"] = used.get(f"p{number}", 0) + fuel
    top.look(WINDOW_S)
    assert len(top.top) == min(SHOWN, len(used))
    assert all(used[panel] == fuel for panel, fuel in top.top)
    assert sum(fuel for _, fuel in top.top) + top.rest == sum(used.values())
    least = min((fuel for _, fuel in top.top), default=0)
    shown = {panel for panel, _ in top.top}
    assert all(fuel <= least for panel, fuel in used.items() if panel not in shown)


def test_panels_above_the_bound_count_as_the_others() -> None:
    top = TopPanels(0.0)
    for number in range(MAX_PANELS + 5):
        top.charge(f"p{number}", 1)
    top.charge("p0", 10)
    top.look(WINDOW_S)
    assert top.top[0] == ("p0", 11)
    assert top.rest == MAX_PANELS + 5 - SHOWN
