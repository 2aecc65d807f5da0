"""Differences of JSON values, leaf by leaf."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from panels_cli.diff import ABSENT, Difference, differences, same

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def test_leaves_are_named_as_in_javascript() -> None:
    old = {"a": [{"b": 1}, 2], "gone": 0, "x y": 1}
    new = {"a": [{"b": 2}], "x y": 2, "c": None}
    assert list(differences(old, new)) == [
        Difference("a[0].b", 1, 2),
        Difference("a[1]", 2, ABSENT),
        Difference("gone", 0, ABSENT),
        Difference('["x y"]', 1, 2),
        Difference("c", ABSENT, None),
    ]


def test_true_is_not_one() -> None:
    assert not same(1, True)
    assert not same([1], [1.0])
    assert same({"a": [1]}, {"a": [1]})


def test_what_is_deep_is_compared_whole() -> None:
    old: Any = 1
    new: Any = 2
    for _ in range(20):
        old, new = [old], [new]
    (found,) = differences(old, new)
    assert found.path == "[0]" * 16


@given(VALUES, VALUES)
def test_there_are_differences_exactly_where_values_are_not_the_same(old: Any, new: Any) -> None:
    assert (not list(differences(old, new))) == same(old, new)
