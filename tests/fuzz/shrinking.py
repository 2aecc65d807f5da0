"""Makes a failing input small, as long as it fails in the same way. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.fuzz.mutation import Codec, NotOpenError

#: Tries at most: a target may take a millisecond for each.
MAX_TRIES: Final = 4_000
#: A value is searched for smaller ones no deeper than this.
_MAX_DEPTH: Final = 32


def shrink(
    data: bytes, fails: Callable[[bytes], bool], *, codec: Codec | None = None, tries: int = MAX_TRIES
) -> bytes:
    """The smallest input found for which ``fails`` holds, as it does for ``data``.

    With a ``codec`` the value inside is made smaller first. Then ranges of bytes are taken out, large ones
    first, until none can be, and bytes become plain ones.
    """
    left = tries

    def still(candidate: bytes) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(candidate)

    if codec is not None:
        data = _shrink_value(data, codec, still)
    data = _shrink_bytes(data, still)
    for at in range(len(data)):
        for plain in b"0a":
            candidate = data[:at] + bytes((plain,)) + data[at + 1 :]
            if data[at] not in b"0a" and still(candidate):
                data = candidate
    return data


def _shrink_bytes(data: bytes, still: Callable[[bytes], bool]) -> bytes:
    size = max(1, len(data) // 2)
    while size:
        at, removed = 0, False
        while at < len(data):
            candidate = data[:at] + data[at + size :]
            if still(candidate):
                data, removed = candidate, True
            else:
                at += size
        if not removed or size > 1:
            size //= 2
    return data


def _shrink_value(data: bytes, codec: Codec, still: Callable[[bytes], bool]) -> bytes:
    try:
        value = codec.decode(data)
    except NotOpenError:
        return data
    found = True
    while found:
        found = False
        for candidate in smaller(value):
            try:
                encoded = codec.encode(candidate)
            except NotOpenError:
                continue
            if len(encoded) < len(data) and still(encoded):
                data, value, found = encoded, candidate, True
                break
    return data


def smaller(value: Any, depth: int = _MAX_DEPTH) -> Iterator[Any]:
    """Values like ``value`` that are smaller, those that leave out most first."""
    if not depth:
        return
    if isinstance(value, (str, bytes)) and value:
        half = len(value) // 2
        yield from (value[:0], value[:half], value[half:], value[:-1])
    elif isinstance(value, list):
        half = len(value) // 2
        if half:
            yield from (value[:half], value[half:])
        yield from value
        yield from (value[:at] + value[at + 1 :] for at in range(len(value)))
        for at, child in enumerate(value):
            yield from ([*value[:at], each, *value[at + 1 :]] for each in smaller(child, depth - 1))
    elif isinstance(value, dict):
        yield from value.values()
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
        for key, child in value.items():
            yield from (
                {k: each if k == key else v for k, v in value.items()} for each in smaller(child, depth - 1)
            )
            yield from ({each if k == key else k: v for k, v in value.items()} for each in smaller(key, 1))
    elif isinstance(value, (int, float)) and value:
        yield 0
