"""What is shown: the base below what is expected."""

from __future__ import annotations

from panels_client.view import DELETED, View


def test_newest_expectation_is_shown_above_the_base() -> None:
    view = View()
    assert view.reset({"a": 1, "b": 1}) == {"a", "b"}
    assert view.expect("x", {"a": 2, "c": 2}) == {"a", "c"}
    assert view.expect("y", {"a": 3, "b": DELETED}) == {"a", "b"}
    assert dict(view.shown) == {"a": 3, "c": 2}
    assert view.settle("y") == {"a", "b"}
    assert dict(view.shown) == {"a": 2, "b": 1, "c": 2}
    assert view.settle("x") == {"a", "c"}
    assert dict(view.shown) == dict(view.base) == {"a": 1, "b": 1}
    assert view.settle("x") == frozenset()


def test_patch_below_an_expectation_is_hidden_until_it_is_settled() -> None:
    view = View()
    view.reset({"a": 1})
    view.expect("x", {"a": 5})
    assert view.apply([("a", True, 2), ("b", True, 1)]) == {"b"}
    assert dict(view.shown) == {"a": 5, "b": 1}
    assert view.reset({"a": 9}) == {"b"}
    assert view.settle("x") == {"a"}
    assert dict(view.shown) == {"a": 9}


def test_deleting_what_is_not_there_changes_nothing() -> None:
    view = View()
    assert view.apply([("a", False, None)]) == frozenset()
    assert repr(DELETED) == "DELETED"


def test_patch_is_shown_as_it_is_while_nothing_is_expected() -> None:
    view = View()
    kept = {"deep": [1]}
    view.reset({"a": 1, "b": kept, "c": None})
    mutations = [("a", True, 2), ("b", True, kept), ("c", False, None), ("d", True, None), ("e", False, None)]
    assert view.apply(mutations) == {"a", "c", "d"}
    assert dict(view.shown) == dict(view.base) == {"a": 2, "b": kept, "d": None}
    assert view.apply([("a", False, None), ("a", True, 3)]) == {"a"}
    assert view.apply([("a", True, 4), ("a", False, None)]) == {"a"}
    assert dict(view.shown) == {"b": kept, "d": None}
