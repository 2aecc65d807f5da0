"""Names and patterns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.names import Pattern, Patterns, is_name, is_name_pattern

texts = st.text("ab*:", max_size=5)


@pytest.mark.parametrize("text", ["a", "A-1._:", "x" * 128, "...", ".a"])
def test_is_name_accepts_what_a_panel_may_be_called(text: str) -> None:
    assert is_name(text)
    assert is_name_pattern(text)
    assert is_name_pattern(text + "*")


@pytest.mark.parametrize("text", ["", ".", "..", "x" * 129, "a b", "a/b", "ä", "a\n", "a*"])
def test_is_name_refuses_what_a_url_would_change(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["", "a*b", "**", "a**", "a b*", "x" * 129 + "*"])
def test_is_name_pattern_takes_one_star_at_the_end(text: str) -> None:
    assert not is_name_pattern(text)
    assert is_name_pattern("*")


@given(texts, texts)
def test_pattern_matches_itself_and_what_a_prefix_begins(text: str, rest: str) -> None:
    assert Pattern.of(text + "*").matches(text + rest)
    if not text.endswith("*"):
        assert Pattern.of(text).matches(text)
        assert Pattern.of(text).matches(text + rest) == (not rest)


@given(st.lists(texts, max_size=5), texts)
def test_patterns_match_what_one_of_them_matches(patterns: list[str], name: str) -> None:
    assert Patterns.of(patterns).matches(name) == any(Pattern.of(text).matches(name) for text in patterns)
