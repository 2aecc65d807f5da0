"""Positions that the engine and the transform do not tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.messages import Language
from panels_worker.javascript.positions import MAX_LOOKS, MAX_SEARCHED_CHARS, find_error, find_read
from tests.workers.javascript.scripts import failure, refusal

lines = st.lists(st.text("ab \t=(", max_size=12), max_size=8)


@given(before=lines, after=lines)
def test_first_wrong_character_is_found(before: list[str], after: list[str]) -> None:
    """A parser that stops at the first ``!``."""
    source = "\n".join([*before, "!", *after])
    looks = 0

    def error_of(text: str) -> str | None:
        nonlocal looks
        looks += 1
        return "unexpected '!'" if "!" in text else None

    assert find_error(source, "unexpected '!'", error_of) == (len(before) + 1, 1)
    assert looks <= MAX_LOOKS + 1


def test_words_are_not_cut_in_two() -> None:
    """A parser that takes no half keyword: its beginnings have the error that comes later, too."""

    def error_of(text: str) -> str | None:
        words = text.split()
        return "unexpected token" if any(word not in ("export", "default", "x") for word in words) else None

    assert find_error("export default\nx ? x", "unexpected token", error_of) == (2, 3)


def test_huge_source_is_not_searched() -> None:
    assert find_error(" " * (MAX_SEARCHED_CHARS + 1), "m", lambda _: pytest.fail("looked")) == (0, 0)


@pytest.mark.parametrize("language", ["javascript", "typescript"])
@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("const a = 1;\nconst b = ;\nreturn a;", 2, 11),
        ("const a = 1;\nlet x = = 2;", 2, 9),
        ("return 1 +;", 1, 11),
        ("let a = 1;\n\n  if (a {\n}", 3, 9),
        ("x = {a: 1,, b}", 1, 11),
        ("const é = '\U0001f600' + ;", 1, 17),
        ("const text = 'a\nb';", 1, 14),
        ("export default function () {\n  return 1 +;\n}", 2, 13),
        ("while (true);\nexport default () => {\n  if (a {\n  }\n}", 3, 9),
        ("throw new Error('not run');\nexport default () => (1;", 2, 24),
        # what is missing at the end is missing behind the last character
        ("const a = 1;\nreturn a +\n\n", 2, 11),
        ("if (a) {\n  a()", 2, 6),
        ("export default () => {\n  return 1 +\n", 2, 13),
        ("export default () => (1 + 2\n", 1, 28),
    ],
)
def test_syntax_error_is_where_the_wrong_token_is(
    source: str, line: int, column: int, language: Language
) -> None:
    found = refusal(source, language)
    assert (found.line, found.column) == (line, column), found


def test_error_inside_a_regular_expression_has_no_position() -> None:
    found = refusal("const a = 1;\nreturn /(/;")
    assert (found.message, found.line, found.column) == ("SyntaxError: expecting ')'", 0, 0)


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("const x = null;\nreturn x.a;", 2, 10),
        ("const x = null;\n\nconst y = x?.b ?? x.a;\nreturn y", 3, 21),
        ("const x = null;\nreturn x['a'];", 2, 11),
        ("const x = null;\n\nx.a();", 3, 1),
        ("const x = {};\nconst y = x.a.b.c;\nreturn y", 2, 15),
    ],
)
def test_read_of_null_is_where_that_property_is_read(source: str, line: int, column: int) -> None:
    failed = failure(source)
    assert (failed.line, failed.column) == (line, column), failed


def test_read_that_may_be_in_two_places_is_not_guessed() -> None:
    message = "cannot read property 'a' of null"
    assert find_read("x.a;\ny.a;", message, 0, 0) is None
    assert find_read("x.ab;", message, 0, 0) is None
    assert find_read("x.a;", "something else", 0, 0) is None
    assert find_read("x\n .a;", message, 0, 0) == (2, 3)
