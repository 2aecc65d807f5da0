"""Positions that neither QuickJS nor the TypeScript transform tells, found by looking at the handler's
source. Pure.

A parser stops at the first thing that is wrong, so a source that is cut behind that thing has the same error,
and one that is cut before it has another: bisection finds the place. Words are not cut in two: ``export d``
is an error that ``export default`` is not. And where a property is read of null, QuickJS knows the function
only, but the message names the property: if that is read in one place, it was there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

#: Sources longer than this are not searched: each look is a compilation.
MAX_SEARCHED_CHARS: Final = 65_536
#: Looks that a search may take.
MAX_LOOKS: Final = 40

_WORD = re.compile(r"[\w$]*")
_NAMED = re.compile(r"'([^']{1,20})'\s*$|`([^`]{1,20})`\s*$")
_READ = re.compile(r"^cannot read property '([\w$]{1,100})' of (?:null|undefined)")


def find_error(
    source: str, message: str, error_of: Callable[[str], str | None], *, line: int = 0
) -> tuple[int, int]:
    """Where the thing stands that ``message`` complains of, as line and column, both 1-based; (0, 0) where
    that is not found.

    ``error_of`` is the message for a source, None for one that compiles. ``line``: the line that the parser
    named, 0 for none."""
    if len(source) > MAX_SEARCHED_CHARS:
        return 0, 0
    low, high = 0, len(source)
    if line:
        starts = [0, *(match.end() for match in re.finditer("\n", source))]
        if line > len(starts):
            return 0, 0
        low = starts[line - 1]
        high = starts[line] if line < len(starts) else len(source)
    looks = 0
    # the shortest beginning that ends within the bounds and has this error
    while low < high and looks < MAX_LOOKS:
        middle = (low + high) // 2
        looks += 1
        if error_of(source[: _word_end(source, middle)]) == message:
            high = middle
        else:
            low = middle + 1
    high = _word_end(source, high)
    if not high or error_of(source[:high]) != message:
        return 0, 0
    at = _token_start(source, high, message)
    return source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)


def end_of(source: str) -> tuple[int, int]:
    """Where something is missing that should follow: the line and column behind the last character that is
    not white space.
    """
    written = source.rstrip()
    return written.count("\n") + 1, len(written) - written.rfind("\n")


def _word_end(source: str, at: int) -> int:
    """``at``, or the end of the word that it is in the middle of."""
    if 0 < at < len(source) and _WORD.fullmatch(source, at - 1, at):
        found = _WORD.match(source, at)
        return found.end() if found is not None else at
    return at


def _token_start(source: str, end: int, message: str) -> int:
    """Where the token begins that ends at ``end``."""
    named = _NAMED.search(message)
    token = (named[1] or named[2]) if named is not None else ""
    if token and source[:end].endswith(token):
        return end - len(token)
    word = re.search(r"[\w$]+$", source[:end])
    return word.start() if word is not None else end - 1


def find_read(source: str, message: str, line: int, column: int) -> tuple[int, int] | None:
    """Where the property is read that ``message`` names, if that is one place and not what ``line`` and
    ``column`` say already.
    """
    named = _READ.match(message)
    if named is None:
        return None
    name = re.escape(named[1])
    read = re.compile(rf"\.\s*(?P<name>{name})(?![\w$])|\[\s*['\"](?P<key>{name})['\"]\s*\]")
    lines = source.split("\n")
    if 1 <= line <= len(lines) and read.search(lines[line - 1], max(0, column - 1)):
        return None
    found = list(read.finditer(source))
    if len(found) != 1:
        return None
    at = found[0].start("name") if found[0]["name"] else found[0].start("key")
    return source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)
