"""The JSON values that panels accepts, and the one place that checks them.

A value is checked once where it is untrusted (a client's frame in the gateway, a guest's output in the worker) and
then travels as bytes. Accepted is RFC 8259 with these bounds: UTF-8, no lone surrogates (escaped or not), no NaN or
Infinity, floats within the range of a double, integers from -2**63 to 2**64-1, nesting of at most ``MAX_DEPTH``.
Duplicate keys are accepted and the last one counts, as in ECMAScript's JSON.parse.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from panels_shared.errors import InvalidJsonError

#: Arrays and objects inside each other. A security limit: encoders and guests recurse.
MAX_DEPTH: Final = 64

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
    return value


def validate(text: bytes | str) -> None:
    """Raises ``InvalidJsonError`` unless ``text`` is a JSON value that panels accepts."""
    decode(text)


def encode(value: Any) -> bytes:
    """``value`` as JSON text. It must be made of what ``decode`` returns."""
    return _encode(value)


def check_depth(value: Any) -> None:
    """Raises ``InvalidJsonError`` when arrays and objects nest deeper than ``MAX_DEPTH``."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ] if any(isinstance(node, (dict, list)) for node in level) else []
        if not level:
            return
    raise InvalidJsonError(f"expected nesting of at most {MAX_DEPTH}, got more")


def _may_be_deep(text: bytes | str) -> bool:
    # counting is far cheaper than walking, and almost no value has this many brackets
    if isinstance(text, str):
        return text.count("[") + text.count("{") > MAX_DEPTH
    return text.count(b"[") + text.count(b"{") > MAX_DEPTH
