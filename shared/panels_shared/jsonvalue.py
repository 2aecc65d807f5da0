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
from typing import Any, Final

import msgspec

from panels_shared.errors import InvalidJsonError

#: Arrays and objects inside each other. A security limit: encoders and guests recurse.
MAX_DEPTH: Final = 64

#: An integer of fewer digits is within the range of a double, whose largest value has 309.
_INTEGER_DIGITS: Final = 309
_long_number_str = re.compile(rf"[0-9]{{{_INTEGER_DIGITS}}}")
_long_number_bytes = re.compile(rb"[0-9]{%d}" % _INTEGER_DIGITS)

_decode = msgspec.json.Decoder().decode
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
