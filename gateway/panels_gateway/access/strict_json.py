"""JSON for security decisions: what two parsers could read differently is refused.

Slower than ``jsonvalue`` and stricter: an object with the same key twice is an error, so that a second
``exp`` in a token cannot overrule the first one that somebody checked.
"""

from __future__ import annotations

import json
from typing import Any

from panels_shared.errors import PanelsError


class StrictJsonError(PanelsError, ValueError):
    """Text that is not strict JSON. The sentence never quotes the text."""


def decode_strict(text: bytes) -> Any:
    """The value in ``text``: UTF-8 without a byte order mark, no duplicate keys, no NaN or Infinity.

    The caller bounds the size. Raises ``StrictJsonError``.
    """
    try:
        return _decoder.decode(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise StrictJsonError("text that is not UTF-8") from None
    except StrictJsonError:
        raise
    except (ValueError, RecursionError):  # ValueError too: an integer of too many digits
        raise StrictJsonError("text that is not JSON") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise StrictJsonError("an object with the same key twice")
    return value


def _constant(name: str) -> Any:
    raise StrictJsonError(f"the number {name}")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
