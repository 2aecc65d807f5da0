"""A reach means what its patterns mean, one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access.reach import EVERYTHING, Reach
from panels_shared.names import Pattern

NAMES = st.text("ab:Z", min_size=1, max_size=4)
PATTERNS = st.builds(Pattern, st.text("ab:Z", max_size=4), st.booleans())


@given(st.lists(PATTERNS, max_size=8), NAMES)
def test_reach_covers_what_a_pattern_matches(patterns: list[Pattern], name: str) -> None:
    assert Reach.of(patterns).covers(name) == any(pattern.matches(name) for pattern in patterns)


@given(st.lists(PATTERNS, max_size=8), NAMES)
def test_ranges_are_in_order_and_apart(patterns: list[Pattern], name: str) -> None:
    reach = Reach.of(patterns)
    assert len(reach.ranges) <= len(patterns)
    for (_, last), (first, _) in zip(reach.ranges, reach.ranges[1:], strict=False):
        assert last < first
    assert list(reach.after(name)) == [ids for ids in reach.ranges if ids[1] > name]


def test_everything_covers_every_id() -> None:
    assert all(map(EVERYTHING.covers, "-~"))
    assert Reach.of([Pattern.of("*")]) == EVERYTHING
