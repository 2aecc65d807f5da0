"""The JSON values that panels accepts, and the one place that checks them.

A value is checked once where it is untrusted (a client's frame in the gateway, a guest's output in the
worker) and then travels as bytes. Accepted is RFC 8259 with these bounds: UTF-8, no lone surrogates
(escaped or not), no NaN or Infinity, every number that a double can hold, however it is spelled, and
nesting of at most ``MAX_DEPTH``. An integer keeps all its digits while it travels as bytes; a number that
rounds to an infinite double is refused. Duplicate keys are accepted and the last one counts, as in
ECMAScript's JSON.parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from math import isinf
from typing import Any, Final

import msgspec

from panels_shared.errors import InvalidJsonError

#: Arrays and objects inside each other. A security limit: encoders and guests recurse.
MAX_DEPTH: Final = 64

#: An integer of fewer digits is within the range of a double, whose largest value has 309.
_INTEGER_DIGITS: Final = 309
_long_number_str = re.compile(rf"[0-9]{{{_INTEGER_DIGITS}}}")
_long_number_bytes = re.compile(rb"[0-9]{%d}" % _INTEGER_DIGITS)

#: Digits in a row of a number that may be too large with an exponent of two digits.
_MANY_DIGITS: Final = 200
#: What is decoded to be checked: too short to be nested too deeply, or to have an integer that is too large.
SMALL_BYTES: Final = 2 * MAX_DEPTH
#: Every digit as 0 and E as e; in this shape a number that may be too large has an exponent of three digits,
#: or ``_MANY_DIGITS`` in a row.
_SHAPE: Final = bytes.maketrans(b"123456789E", b"000000000e")
_DIGITS_IN_A_ROW: Final = b"0" * _MANY_DIGITS
#: Numbers that may be too large, whole. Nothing in the pattern is tried twice, so that it takes linear time.
_large_number = re.compile(
    rb"(?<![0-9.eE+])(?:[0-9]{%d}[0-9.]*+(?:[eE][+-]?[0-9]++)?|[0-9.]++[eE]\+?[0-9]{3}[0-9]*+)" % _MANY_DIGITS
)
_string = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
#: Turns brackets into steps up and down, as signed bytes.
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

_decode = msgspec.json.Decoder().decode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


def decode(text: bytes | str) -> Any:
    """The value that ``text`` holds. Raises ``InvalidJsonError`` for what panels does not accept."""
    try:
        value = _decode(text)
    except RecursionError:
        raise InvalidJsonError(f"expected nesting of at most {MAX_DEPTH}, got more") from None
    except UnicodeDecodeError:
        raise InvalidJsonError("expected UTF-8, got invalid bytes") from None
    except UnicodeEncodeError:
        raise InvalidJsonError("expected well-formed Unicode, got a lone surrogate") from None
    except msgspec.DecodeError as exc:  # ValidationError too: a number out of range
        raise InvalidJsonError(f"expected JSON: {exc}") from None
    if _may_be_deep(text):
        check_depth(value)
    if len(text) >= _INTEGER_DIGITS and _has_long_number(text):
        check_integers(value)
    return value


def validate(text: bytes | str) -> None:
    """Raises ``InvalidJsonError`` unless ``text`` is a JSON value that panels accepts."""
    decode(text)


def encode(value: Any) -> bytes:
    """``value`` as JSON text. It must be made of what ``decode`` returns."""
    return _encode(value)


def vet(text: bytes, *, wrapping: int = 0) -> None:
    """Raises ``InvalidJsonError`` unless ``text`` is a JSON value that panels accepts, as ``validate`` does.

    No objects are made of a text that is not small, however it is made. ``wrapping`` is how many arrays and
    objects stand around the values whose nesting ``MAX_DEPTH`` bounds.
    """
    size = len(text)
    try:
        if size <= SMALL_BYTES:
            _decode(text)
            return
        _skip(text)
        str(text, "utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidJsonError("expected JSON, got something else") from None
    deep = text.count(b"[") + text.count(b"{") > MAX_DEPTH
    # looking for what only a number has that may be too large is far cheaper than looking at all numbers
    shape = text.translate(_SHAPE)
    large = (
        shape.find(b"0e000") >= 0
        or shape.find(b"0e+000") >= 0
        or (size >= _MANY_DIGITS and shape.find(_DIGITS_IN_A_ROW) >= 0)
    )
    if not (deep or large):
        return
    bare = _string.sub(b"", text)
    steps = memoryview(bare.translate(_STEPS, _NO_BRACKETS)).cast("b")
    if deep and max(accumulate(steps), default=0) > MAX_DEPTH + wrapping:
        raise InvalidJsonError(f"expected nesting of at most {MAX_DEPTH}, got more")
    if large and any(isinf(float(number)) for number in _large_number.findall(bare)):
        raise InvalidJsonError("expected numbers within the range of a double, got a larger one")


def check_depth(value: Any) -> None:
    """Raises ``InvalidJsonError`` when arrays and objects nest deeper than ``MAX_DEPTH``."""
    level = _containers([value])
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = _containers(child for node in level for child in _children(node))
    if level:
        raise InvalidJsonError(f"expected nesting of at most {MAX_DEPTH}, got more")


def check_integers(value: Any) -> None:
    """Raises ``InvalidJsonError`` for an integer that rounds to an infinite double."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, int):
            try:
                float(node)
            except OverflowError:
                raise InvalidJsonError(
                    "expected a number within the range of a double, got a larger integer"
                ) from None
        elif isinstance(node, (dict, list)):
            waiting.extend(_children(node))


def _containers(nodes: Iterable[Any]) -> list[Any]:
    return [node for node in nodes if isinstance(node, (dict, list))]


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


# Counting brackets and looking for digits is far cheaper than walking, and almost no value has so many.


def _may_be_deep(text: bytes | str) -> bool:
    if isinstance(text, str):
        return text.count("[") + text.count("{") > MAX_DEPTH
    return text.count(b"[") + text.count(b"{") > MAX_DEPTH


def _has_long_number(text: bytes | str) -> bool:
    if isinstance(text, str):
        return _long_number_str.search(text) is not None
    return _long_number_bytes.search(text) is not None
