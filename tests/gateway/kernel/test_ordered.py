"""Ordered has what a dictionary has, and finds ranges of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.kernel.ordered import Ordered

NAMES = st.text("abc", min_size=1, max_size=3)


@given(st.lists(st.tuples(st.booleans(), NAMES)), NAMES, st.integers(1, 5), st.sets(NAMES))
def test_ordered_agrees_with_a_dictionary(
    steps: list[tuple[bool, str]], after: str, limit: int, exact: set[str]
) -> None:
    ordered: Ordered[str] = Ordered()
    model: dict[str, str] = {}
    for put, name in steps:
        if put:
            ordered.put(name, name)
            model[name] = name
        else:
            ordered.discard(name)
            model.pop(name, None)
    assert len(ordered) == len(model)
    assert ordered.get(after) == model.get(after)
    everything = [name for name in sorted(model) if name > after]
    assert ordered.between([("", "z")], after=after, limit=limit) == everything[:limit]
    ranges = [(name, name) for name in sorted(exact)]
    wanted = [name for name in everything if name in exact]
    assert ordered.between(ranges, after=after, limit=limit) == wanted[:limit]
