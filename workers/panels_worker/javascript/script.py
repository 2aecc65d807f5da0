"""A prepared script: what its artifact holds."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

#: Lines that the engine puts before a body when it makes a function of it.
BODY_HEADER_LINES: Final = 2


class Script(msgspec.Struct, frozen=True):
    """``code`` is what the engine compiles, ``source`` what its author wrote; they differ for TypeScript, and then ``positions``
    maps between them: rows of (line, column, source line, source column), ascending, all 1-based.

    ``module``: an ES module whose export ``entry`` is the handler; otherwise the body of a function.
    """

    MODULE_NAME: ClassVar[str] = "handler"

    code: str
    source: str
    module: bool
    is_async: bool
    entry: str = "default"
    positions: tuple[tuple[int, int, int, int], ...] = ()

    def locate(self, line: int, column: int) -> tuple[int, int]:
        """Where in the source a position of the engine is; (0, 0) when it is outside the handler."""
        if not self.module:
            line -= BODY_HEADER_LINES
        if line < 1:
            return (0, 0)
        if not self.positions:
            return (line, column) if line <= self.source.count("\n") + 1 else (0, 0)
        low, high = 0, len(self.positions)
        while low < high:
            middle = (low + high) // 2
            if self.positions[middle][:2] <= (line, column):
                low = middle + 1
            else:
                high = middle
        if low == 0:
            return (0, 0)
        _, at, source_line, source_column = self.positions[low - 1]
        same_line = self.positions[low - 1][0] == line
        return (source_line, source_column + (column - at if same_line and column - at < 200 else 0))

    def snippet(self, line: int) -> str:
        """The source's line ``line``, cut to 200 characters."""
        lines = self.source.split("\n")
        return lines[line - 1].strip("\r")[:200] if 1 <= line <= len(lines) else ""


def encode(script: Script) -> bytes:
    """The artifact's payload."""
    return msgspec.msgpack.encode(script)


def decode(payload: bytes) -> Script:
    """Undoes ``encode``. Raises ``msgspec.DecodeError``."""
    return msgspec.msgpack.decode(payload, type=Script)
