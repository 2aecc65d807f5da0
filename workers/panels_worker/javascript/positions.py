"""Positions that neither QuickJS nor the TypeScript transform tells, found by looking at the handler's
source. Pure.

A parser stops at the first thing that is wrong, so a source that is cut behind that thing has the same error,
and one that is cut before it has another: bisection finds the place. Words are not cut in two: ``export d``
is an error that ``export default`` is not. And where a property is read of null, a name is not defined, or
null is taken apart, QuickJS knows the function only, but the message says what it was: if that is in one
place, it was there."""

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
_UNDEFINED = re.compile(r"^([A-Za-z_$][\w$]{0,99}) is not defined$")
_NO_OBJECT: Final = "Cannot convert undefined or null to object"
_NO_ITERATOR = re.compile(r"cannot read property 'Symbol\.iterator' of (?:null|undefined)$")
#: What else asks for an iterator.
_ITERATES = re.compile(r"\bof\b|\.\.\.|\byield\s{0,9}\*")
#: Comments and quotes. What is not closed ends with its line or the source, so that a search is linear.
_TEXTS = re.compile(
    r"//[^\n]*|/\*.*?(?:\*/|\Z)"
    r"|'(?:\\.|[^'\\\n])*(?:'|(?=\n)|\Z)|\"(?:\\.|[^\"\\\n])*(?:\"|(?=\n)|\Z)",
    re.DOTALL,
)
#: Patterns that take values out of something: declarations, assignments in parentheses, and parameters.
_PATTERNS = re.compile(
    r"\b(?:const|let|var)\s{1,9}(?P<declared>[{\[])"
    r"|\(\s{0,9}(?P<assigned>[{\[])[^{}()]{0,200}[}\]]\s{0,9}=(?![=>])[^()]"
    r"|[(,]\s{0,9}(?P<parameter>[{\[])[^{}\[\]()]{0,200}[}\]]\s{0,9}"
    r"(?:[:=][^,()]{0,99})?(?:,[^()]{0,200})?\)\s{0,9}(?:=>|\{)"
)


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


def find_name(source: str, message: str, line: int, column: int) -> tuple[int, int] | None:
    """Where the name is read that ``message`` says is not defined, if that is one place and not what ``line``
    and ``column`` say already. Where it is read several times, the only one in ``line`` counts.
    """
    named = _UNDEFINED.match(message)
    if named is None or len(source) > MAX_SEARCHED_CHARS:
        return None
    code = _without_texts(source)
    # no property, and no operand of typeof, which reads without throwing
    read = re.compile(rf"(?<![\w$#])(?<!(?<!\.\.)\.)(?<!\btypeof ){re.escape(named[1])}(?![\w$])")
    places = [
        _place(source, match.start()) for match in read.finditer(code) if not _is_key(code, *match.span())
    ]
    if (line, column) in places:
        return None
    if len(places) != 1:
        places = [place for place in places if place[0] == line]
    return places[0] if len(places) == 1 else None


def find_pattern(source: str, message: str) -> tuple[int, int, str] | None:
    """Where values are taken out of null or undefined by a pattern such as ``const { a } = …``, if
    ``message`` says that this happened and the source has one such place; and the pattern, cut to 60
    characters.
    """
    opening = "{" if message == _NO_OBJECT else "[" if _NO_ITERATOR.match(message) else ""
    if not opening or len(source) > MAX_SEARCHED_CHARS:
        return None
    code = _without_texts(source)
    if opening == "[" and _ITERATES.search(code):
        return None
    found = [match.start(match.lastgroup or 0) for match in _PATTERNS.finditer(code)]
    found = [start for start in found if code[start] == opening]
    if len(found) != 1:
        return None
    text = " ".join(source[found[0] : _closing(code, found[0]) + 1].split())
    return *_place(source, found[0]), text if len(text) <= 60 else f"{text[:59]}…"


def _place(source: str, at: int) -> tuple[int, int]:
    return source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)


def _is_key(code: str, start: int, end: int) -> bool:
    """Whether a name is the key of an object: ``{ name: …`` or ``, name: …``."""
    return code[end : end + 20].lstrip()[:1] == ":" and code[max(0, start - 20) : start].rstrip()[-1:] in "{,"


def _closing(code: str, start: int) -> int:
    """Where the bracket closes that opens at ``start``; somewhat further on where it does not."""
    depth = 0
    for at in range(start, min(start + 300, len(code))):
        depth += (code[at] in "{[") - (code[at] in "}]")
        if not depth:
            return at
    return start + 300


def _without_texts(source: str) -> str:
    """``source`` with blanks for what is in comments and quotes, and as long. What stands in templates and
    regular expressions stays.
    """
    return _TEXTS.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source)
