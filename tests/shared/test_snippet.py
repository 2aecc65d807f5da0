"""Source with a caret."""

from __future__ import annotations

import pytest

from panels_shared.snippet import MAX_SNIPPET_CHARS, caret


@pytest.mark.parametrize(
    ("line", "column", "shown"),
    [
        (1, 1, ("ab", "^")),
        (1, 3, ("ab", "  ^")),
        (1, 4, ("ab",)),
        (1, None, ("ab",)),
        (2, 2, ("\tc", "\t^")),
        (3, 1, ()),
        (0, 1, ()),
    ],
)
def test_caret_stands_below_the_column(line: int, column: int | None, shown: tuple[str, ...]) -> None:
    assert caret("ab\n\tc\n", line, column) == shown


def test_long_line_is_cut() -> None:
    assert len(caret("x" * 1_000, 1, 1)[0]) == MAX_SNIPPET_CHARS
