"""A prepared script: what its artifact holds."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

#: Lines that the engine puts before a body when it makes a function of it.
BODY_HEADER_LINES: Final = 2
#: What stands around a source that is one expression, in a body of its own.
EXPRESSION_OPENING: Final = "return (\n"
EXPRESSION_CLOSING: Final = "\n)"


class Form(StrEnum):
    """What a source is: the body of a function, an ES module, or one expression that is a function."""

    BODY = "body"
    MODULE = "module"
    EXPRESSION = "expression"


class Script(msgspec.Struct, frozen=True):
    """A handler that compiles.

    - ``code``: what the engine compiles; ``source``: what the author wrote. They differ for TypeScript.
    - ``form``: how the engine compiles it. The export ``entry`` of a module is the handler.
    - ``is_async``: whether a body is that of an async function.
    - ``positions``: where they differ, rows of (line, column, source line, source column), ascending and
      1-based.
    - ``name``: what the engine calls it, where it is a module.
    - ``modules``: what it imports, each behind those that it imports itself."""

    code: str
    source: str
    form: Form
    is_async: bool = False
    entry: str = "default"
    positions: tuple[tuple[int, int, int, int], ...] = ()
    name: str = "handler"
    modules: tuple[Script, ...] = ()

    @property
    def module(self) -> bool:
        """Whether it is an ES module."""
        return self.form is Form.MODULE

    @property
    def header_lines(self) -> int:
        """Lines that the engine counts before the first one of ``code``."""
        return {Form.BODY: BODY_HEADER_LINES, Form.MODULE: 0, Form.EXPRESSION: BODY_HEADER_LINES + 1}[
            self.form
        ]

    def locate(self, line: int, column: int) -> tuple[int, int]:
        """Where in the source a position of the engine is; (0, 0) when it is outside the handler."""
        line -= self.header_lines
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
        if low < len(self.positions):
            following, at, source_line, source_column = self.positions[low]
            before = self.positions[low - 1]
            if (
                following == line
                and before[:2] != (line, column)
                and before[0] != line
                and source_column > at - column
            ):
                # a mark at the beginning of a line: the first word behind it is closer than the last one
                # before
                return (source_line, source_column - (at - column))
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
