"""Why a client's JSON object is not what it should be: which field is wrong, and what was expected of it.

The decoders of ``messages`` and of the HTTP trigger body are quick and say only that something is
wrong. This is the slow path behind them. It takes the object apart into its top-level members without
looking into their values, so that a value that is not even JSON can be told from its neighbours. Then
it judges each member by itself.

Nothing is accepted here: the caller has already refused the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

MAX_REQUEST_ID_CHARS: Final = 256
#: The largest version that a client may expect of a panel.
MAX_SEQ: Final = 2**63 - 1
#: How many tokens of a text are examined, which takes a few milliseconds; a longer text is judged as a
#: whole. A security limit.
MAX_TOKENS: Final = 20_000

_MAX_SHOWN_CHARS: Final = 64
_SPACE: Final = re.compile(r"[ \t\n\r]*+")
_STRING: Final = re.compile(r'"(?:[^"\\]++|(?:\\.)++)*+"', re.DOTALL)
#: What matters for finding the end of a value: strings, runs of brackets, and commas. A quote that
#: begins no string is a token too: without it, each quote behind it would be tried as the beginning of
#: one, to the end of the text.
_TOKEN: Final = re.compile(r'"(?:[^"\\]++|(?:\\.)++)*+"|[\[{]++|[\]}]++|,|"', re.DOTALL)

#: Says what is wrong with a decoded value; None if nothing is.
Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: its name, and its value as it was written."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """What a field has to be.

    ``expected`` is what the error says if the field is missing; None if it may be missing.
    """

    check: Check
    expected: str | None = None


def members_of(text: str | bytes) -> list[Member] | None:
    """The top-level members of the object in ``text``, or None when it cannot be taken apart as an object."""
    try:
        return _split(text if isinstance(text, str) else str(text, "utf-8"))
    except (UnicodeDecodeError, InvalidJsonError):
        return None


def _split(text: str) -> list[Member] | None:
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return None
    at = _skip(text, at + 1)
    members: list[Member] = []
    budget = MAX_TOKENS
    while (name := _STRING.match(text, at)) is not None:
        at = _skip(text, name.end())
        if text[at : at + 1] != ":":
            return None
        begin = _skip(text, at + 1)
        end, budget = _end_of_value(text, begin, budget)
        if end < 0:
            return None
        members.append(Member(jsonvalue.decode(name[0]), text[begin:end].rstrip(" \t\n\r")))
        if text[end] == "}":
            return members if _skip(text, end + 1) == len(text) else None
        at = _skip(text, end + 1)
    return None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _end_of_value(text: str, at: int, budget: int) -> tuple[int, int]:
    """The position of the comma or brace after the value at ``at`` (-1 if there is none), and
    the budget that remains.
    """
    depth = 0
    for token in _TOKEN.finditer(text, at):
        budget -= 1
        if budget < 0:
            break
        first = token[0][0]
        if first in "[{":
            depth += len(token[0])
        elif first in "]}":
            if len(token[0]) > depth:
                end = token.start() + depth
                return (end if text[end] == "}" else -1), budget
            depth -= len(token[0])
        elif first == "," and depth == 0:
            return token.start(), budget
        elif token[0] == '"':
            break
    return -1, budget


def request_id_in(members: Sequence[Member]) -> str | None:
    """The requestId among ``members``, if it is one that an answer may carry."""
    found: str | None = None
    for member in members:
        if member.name == "requestId":
            try:
                value = jsonvalue.decode(member.text)
            except InvalidJsonError:
                return None
            found = value if check_request_id(value) is None else None
    return found


def problem_in(members: Sequence[Member], fields: Mapping[str, Field], *, closed: bool) -> str | None:
    """The first problem, as ``field: expected ...``; None if each field is right by itself.

    ``closed``: a field that is not among ``fields`` is wrong too.
    """
    for member in members:
        field = fields.get(member.name)
        if field is None:
            if closed:
                return f"{shown(member.name)}: expected no such field"
            continue
        try:
            problem = field.check(jsonvalue.decode(member.text))
        except InvalidJsonError as exc:
            problem = exc.problem
        if problem is not None:
            return f"{member.name}: {problem}"
    names = {member.name for member in members}
    for name, field in fields.items():
        if field.expected is not None and name not in names:
            return f"{name}: expected {field.expected}, got none"
    return None


def shown(text: str) -> str:
    """``text`` as an error may quote it."""
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


# -- checks ------------------------------------------------------------------------------------------


def check_text(maximum: int) -> Check:
    """A string of at most ``maximum`` characters."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"expected a string, got {kind_of(value)}"
        if len(value) > maximum:
            return f"expected at most {maximum} characters, got {len(value)}"
        return None

    return check


check_request_id: Final = check_text(MAX_REQUEST_ID_CHARS)


def check_optional_request_id(value: Any) -> str | None:
    """A requestId, or null for none."""
    return None if value is None else check_request_id(value)


def check_seq(value: Any) -> str | None:
    """A version of a panel, or null for any."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"expected a number, got {kind_of(value)}"
    if not 0 <= value <= MAX_SEQ or value != int(value):
        return "expected a version, a whole number from 0, got another"
    return None


def check_anything(value: Any) -> str | None:
    """Any JSON value."""
    return None


def check_texts(count: int, maximum: int) -> Check:
    """An array of at most ``count`` strings of at most ``maximum`` characters."""
    check_one = check_text(maximum)

    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return f"expected an array of strings, got {kind_of(value)}"
        if len(value) > count:
            return f"expected at most {count}, got {len(value)}"
        for index, one in enumerate(value):
            if (problem := check_one(one)) is not None:
                return f"{problem} at index {index}"
        return None

    return check


def kind_of(value: object) -> str:
    """What a decoded JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
