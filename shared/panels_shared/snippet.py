"""A piece of source with a caret below the place that is meant. Pure."""

from __future__ import annotations

from typing import Final

MAX_SNIPPET_CHARS: Final = 160


def caret(source: str, line: int, column: int | None) -> tuple[str, ...]:
    """A line of ``source`` with a caret below ``column``; both count from 1. Empty where there is no such
    line.
    """
    lines = source.splitlines()
    if not 1 <= line <= len(lines):
        return ()
    text = lines[line - 1][:MAX_SNIPPET_CHARS]
    if column is None or not 1 <= column <= len(text) + 1:
        return (text,)
    # tabs stay tabs, so that the caret stands below its column
    return (text, "".join("\t" if c == "\t" else " " for c in text[: column - 1]) + "^")
