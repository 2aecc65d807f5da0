"""A module's bytes, read from the front: numbers, counts and names, each within its bounds.

Layout: WebAssembly Core Specification 2.0, chapter 5.
"""

from __future__ import annotations

from typing import Final

from panels_shared.messages import Refusal

#: Security limits on counts; a module of ordinary toolchains has a tenth of each.
MAX_ITEMS: Final = 50_000
MAX_NAME_BYTES: Final = 1_024


class RefusedError(Exception):
    """The module cannot be a handler; ``refusal`` says why in words for its author."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


class Reader:
    """A stretch of a module. Methods raise ``RefusedError`` when the bytes end early or make no sense."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def byte(self) -> int:
        """The next byte."""
        if self.at >= self.end:
            raise self.malformed("it ends too early")
        value = self.data[self.at]
        self.at += 1
        return value

    def u32(self) -> int:
        """An unsigned number of at most 32 bits in LEB128."""
        number = self._leb128(max_bytes=5)
        if number > 0xFFFF_FFFF:
            raise self.malformed("a number is too large")
        return number

    def u64(self) -> int:
        """An unsigned number in LEB128, of at most ten bytes."""
        return self._leb128(max_bytes=10)

    def _leb128(self, *, max_bytes: int) -> int:
        result = 0
        for shift in range(0, 7 * max_bytes, 7):
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return result
        raise self.malformed("a number has too many bytes")

    def count(self, what: str) -> int:
        """How many items follow; at most ``MAX_ITEMS``. ``what`` names them for the author."""
        value = self.u32()
        if value > MAX_ITEMS:
            raise RefusedError("too_large", f"expected at most {MAX_ITEMS} {what}, got {value}")
        return value

    def skip(self, size: int) -> None:
        """Passes over ``size`` bytes."""
        if size > self.end - self.at:
            raise self.malformed("a length reaches past the end")
        self.at += size

    def name(self) -> str:
        """A UTF-8 name of at most ``MAX_NAME_BYTES``."""
        size = self.u32()
        if size > MAX_NAME_BYTES:
            raise RefusedError("too_large", f"expected names of at most {MAX_NAME_BYTES} bytes, got {size}")
        start = self.at
        self.skip(size)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise self.malformed("a name is not UTF-8") from None

    def malformed(self, why: str) -> RefusedError:
        """The error to raise at this place."""
        return RefusedError("malformed", f"expected a WebAssembly module, but at byte {self.at} {why}")
