"""A seeded mutator of bytes, and of the values that they hold. Pure: the same seed makes the same inputs.

Two levels. ``Mutator.mutate`` changes bytes, or opens them by a ``Codec``, changes one node of the value
inside and encodes it again; where an input does not open, bytes are changed. Leaves that are bytes are
opened again by chance, because formats nest: JSON in MessagePack, MessagePack in a frame.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

#: Bytes of one input; what grows beyond is cut.
MAX_INPUT_BYTES: Final = 64 * 1024
#: How deep "nest deeper" goes: beyond every bound on nesting, and below what overflows a C stack by itself.
NESTINGS: Final = (1, 2, 16, 63, 64, 65, 100, 1_000)

#: Integers at the edges of what is usually stored in so many bits, and of what a double holds.
BOUNDARIES: Final = (
    *(0, 1, -1, 2, 7, 8, 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 1_000, 1_023, 1_024, 4_095, 4_096),
    *(4_097,),
    *(32_767, 32_768, 65_535, 65_536, 65_537, 131_072, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**52, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(-2, -128, -129, -32_768, -(2**31), -(2**31) - 1, -(2**53), -(2**63)),
)
_WIDTHS: Final = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
_FLOATS: Final = (0.0, -0.0, 0.5, 1e308, -1e308, 5e-324, 2.0**53, float("inf"), float("-inf"), float("nan"))
_TEXTS: Final = (
    *("", "*", "a", "A" * 129, "a" * 257, "é", "\U0001f600", "\0", "\x7f", "\ud800", "\ufeff", "\u202e"),
    *("..", "/"),
    *("__proto__", "constructor", "\n", "%00", "state", "null", " ", "'", '"', "\\"),
)
_BYTES: Final = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"1e999",
    b"NaN",
    b'"\\ud800"',
    b"\xc0\x80",
)


class NotOpenError(Exception):
    """Bytes that a codec does not open."""


@dataclass(frozen=True, slots=True)
class Codec:
    """How the bytes of an input are a value. ``decode`` raises ``NotOpenError``; ``encode`` takes any value.

    Values are made of None, bool, int, float, str, bytes, list and dict.
    """

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


def _decode_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise NotOpenError from None


def _encode_json(value: Any) -> bytes:
    try:
        return json.dumps(value, default=_no_bytes).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        raise NotOpenError from None


def _no_bytes(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else None


def _decode_msgpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, unicode_errors="surrogateescape", max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        raise NotOpenError from None


def _encode_msgpack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass", default=repr)
    except (ValueError, OverflowError, TypeError, RecursionError):
        raise NotOpenError from None
    return packed


JSON: Final = Codec(_decode_json, _encode_json)
MSGPACK: Final = Codec(_decode_msgpack, _encode_msgpack)


class Mutator:
    """See the module's docstring. ``tokens`` are words of the format, put in as they are.
    With ``keep_open`` the bytes of what opens are never changed by themselves."""

    def __init__(
        self,
        rng: random.Random,
        *,
        codec: Codec | None = None,
        tokens: Sequence[bytes] = (),
        keep_open: bool = False,
    ) -> None:
        self._rng = rng
        self._codec = codec
        self._tokens = tokens
        self._structural = 1.0 if keep_open else 0.7
        self._operations = [
            self._flip,
            self._flip,
            self._boundary,
            self._delete,
            self._insert,
            self._duplicate,
            self._splice,
            self._truncate,
            self._overwrite,
        ]
        if tokens:
            self._operations += [self._token, self._token]

    def mutate(self, data: bytes, other: bytes) -> bytes:
        """``data`` with one to four changes. ``other`` is another input, parts of which may come in."""
        rng = self._rng
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            data = self._once(data, other)
        return data[:MAX_INPUT_BYTES]

    def _once(self, data: bytes, other: bytes) -> bytes:
        codec = self._codec
        if codec is not None and self._rng.random() < self._structural:
            try:
                value = codec.decode(data)
                try:
                    donor = codec.decode(other)
                except NotOpenError:
                    donor = None
                return codec.encode(self.mutate_value(value, donor))
            except NotOpenError:
                pass
        return self._rng.choice(self._operations)(data, other)

    # -- bytes ---------------------------------------------------------------------------------------

    def _range(self, data: bytes) -> tuple[int, int]:
        """A range of ``data``, most often a short one."""
        begin = self._rng.randint(0, len(data))
        size = self._rng.choice((1, 1, 2, 4, 8, 16, 64, len(data)))
        return begin, min(len(data), begin + size)

    def _flip(self, data: bytes, _other: bytes) -> bytes:
        if not data:
            return b"\0"
        changed = bytearray(data)
        changed[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)

    def _overwrite(self, data: bytes, _other: bytes) -> bytes:
        begin, end = self._range(data)
        return data[:begin] + self._rng.randbytes(end - begin) + data[end:]

    def _boundary(self, data: bytes, _other: bytes) -> bytes:
        width, letter = self._rng.choice(_WIDTHS)
        number = self._rng.choice(BOUNDARIES) & ((1 << 8 * width) - 1)
        packed = struct.pack(self._rng.choice("<>") + letter, number)
        begin = self._rng.randint(0, max(0, len(data) - width))
        return data[:begin] + packed + data[begin + width :]

    def _delete(self, data: bytes, _other: bytes) -> bytes:
        begin, end = self._range(data)
        return data[:begin] + data[end:]

    def _insert(self, data: bytes, _other: bytes) -> bytes:
        at = self._rng.randint(0, len(data))
        return data[:at] + self._rng.randbytes(self._rng.choice((1, 2, 4, 16))) + data[at:]

    def _duplicate(self, data: bytes, _other: bytes) -> bytes:
        begin, end = self._range(data)
        times = self._rng.choice((2, 2, 3, 8, 100, 2_000))
        return data[:begin] + (data[begin:end] * times)[:MAX_INPUT_BYTES] + data[end:]

    def _splice(self, data: bytes, other: bytes) -> bytes:
        begin, end = self._range(data)
        first, last = self._range(other)
        return data[:begin] + other[first:last] + data[end:]

    def _truncate(self, data: bytes, _other: bytes) -> bytes:
        return data[: self._rng.randint(0, len(data))]

    def _token(self, data: bytes, _other: bytes) -> bytes:
        begin, end = self._range(data)
        if self._rng.random() < 0.5:
            end = begin
        return data[:begin] + self._rng.choice(self._tokens) + data[end:]

    # -- values --------------------------------------------------------------------------------------

    def mutate_value(self, value: Any, donor: Any) -> Any:
        """``value`` with one node changed, on the way to which everything is copied."""
        rng = self._rng
        children = len(value) if isinstance(value, (list, dict)) else 0
        # the deeper the tree, the more often it is descended into
        if children and rng.random() < 0.8:
            if isinstance(value, list):
                at = rng.randrange(children)
                return [*value[:at], self.mutate_value(value[at], donor), *value[at + 1 :]]
            key = rng.choice(list(value))
            if rng.random() < 0.15:
                return {self.mutate_key(k) if k == key else k: v for k, v in value.items()}
            return {k: self.mutate_value(v, donor) if k == key else v for k, v in value.items()}
        choice = rng.random()
        if choice < 0.15:
            return self.any_value()
        if choice < 0.25:
            return self._part_of(donor)
        if choice < 0.32:
            return self._nested(value)
        return self._changed(value, donor)

    def mutate_key(self, key: Any) -> Any:
        """Another key for a map."""
        changed = self._changed(key, None) if isinstance(key, (str, bytes, int)) else ""
        return changed if isinstance(changed, (str, bytes, int)) else ""

    def any_value(self) -> Any:
        """A value of any type, most often one at some edge."""
        rng = self._rng
        match rng.randrange(9):
            case 0:
                return None
            case 1:
                return rng.random() < 0.5
            case 2 | 3:
                return rng.choice(BOUNDARIES)
            case 4:
                return rng.choice(_FLOATS)
            case 5:
                return rng.choice(_TEXTS)
            case 6:
                return rng.choice(_BYTES)
            case 7:
                return [self.any_value() for _ in range(rng.choice((0, 1, 2)))]
            case _:
                return {rng.choice(_TEXTS): self.any_value() for _ in range(rng.choice((0, 1, 2)))}

    def _part_of(self, value: Any) -> Any:
        while isinstance(value, (list, dict)) and value and self._rng.random() < 0.7:
            value = self._rng.choice(value if isinstance(value, list) else list(value.values()))
        return value

    def _nested(self, value: Any) -> Any:
        kind = self._rng.random() < 0.5
        for _ in range(self._rng.choice(NESTINGS)):
            value = [value] if kind else {"a": value}
        return value

    def _changed(self, value: Any, donor: Any) -> Any:
        rng = self._rng
        if isinstance(value, bool) or value is None:
            return self.any_value() if value is None else not value
        if isinstance(value, int):
            return rng.choice(
                (rng.choice(BOUNDARIES), value + rng.choice((-1, 1)), -value, float(value % 2**64))
            )
        if isinstance(value, float):
            return rng.choice((*_FLOATS, value + 0.5, int(value) if -1e30 < value < 1e30 else 0))
        if isinstance(value, str):
            return self._changed_text(value)
        if isinstance(value, bytes):
            return self._changed_bytes(value, donor)
        if isinstance(value, list):
            return self._changed_list(value)
        if isinstance(value, dict):
            return self._changed_map(value)
        return self.any_value()

    def _changed_text(self, text: str) -> str:
        rng = self._rng
        at = rng.randint(0, len(text))
        match rng.randrange(7):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + rng.choice(_TEXTS) + text[at:]
            case 2:
                return rng.choice(_TEXTS)
            case 3:
                return text * rng.choice((2, 65, 257, 5_000))
            case 4 if self._tokens:
                return rng.choice(self._tokens).decode("latin-1")
            case 5:
                return text + "*"
            case _:
                return (
                    text[:at]
                    + chr(rng.choice((0, 9, 34, 127, 255, 0xD7FF, 0xFFFF, 0x10FFFF)))
                    + text[at + 1 :]
                )

    def _changed_bytes(self, data: bytes, donor: Any) -> bytes:
        rng = self._rng
        other = self._part_of(donor)
        other = other if isinstance(other, bytes) else rng.choice(_BYTES)
        for codec in (JSON, MSGPACK):
            if rng.random() < 0.4:
                try:
                    return codec.encode(self.mutate_value(codec.decode(data), None))
                except NotOpenError:
                    continue
        if rng.random() < 0.1:
            return rng.choice(_BYTES)
        return rng.choice(self._operations)(data, other)

    def _changed_list(self, values: list[Any]) -> list[Any]:
        rng = self._rng
        if not values:
            return [self.any_value()]
        at, other = rng.randrange(len(values)), rng.randrange(len(values))
        match rng.randrange(6):
            case 0:
                return values[:at] + values[at + 1 :]
            case 1:
                return [
                    *values[:at],
                    *[values[at]] * rng.choice((2, 2, 17, 65, 257, 4_097)),
                    *values[at + 1 :],
                ]
            case 2:
                changed = list(values)
                changed[at], changed[other] = changed[other], changed[at]
                return changed
            case 3:
                return [*values[:at], self.any_value(), *values[at:]]
            case 4:
                return values[: at + 1]
            case _:
                return [*values, self.any_value()]

    def _changed_map(self, values: dict[Any, Any]) -> dict[Any, Any]:
        rng = self._rng
        if not values:
            return {rng.choice(_TEXTS): self.any_value()}
        key = rng.choice(list(values))
        match rng.randrange(4):
            case 0:
                return {k: v for k, v in values.items() if k != key}
            case 1:
                return {**values, rng.choice(_TEXTS): self.any_value()}
            case 2:
                return {**values, key: values[rng.choice(list(values))]}
            case _:
                return {
                    **values,
                    **{f"{key}{number}": values[key] for number in range(rng.choice((2, 70, 300)))},
                }
