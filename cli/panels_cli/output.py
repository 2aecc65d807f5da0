"""What is printed: JSON for programs, tables and colours for people, plain text where it goes to a file.

Names, titles, events and messages come from elsewhere, and a terminal obeys control characters. So nothing is
printed before ``clean`` has seen it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final

import msgspec
from rich.console import Console
from rich.text import Text

MAX_COLUMNS: Final = 160


def clean(text: str, *, lines: bool = False) -> str:
    """``text`` with everything escaped, as in JSON, that a terminal would obey or that turns the direction of
    writing. JSON without line ends stays the same JSON. With ``lines`` line ends and tabs remain.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        c if c in kept or unicodedata.category(c) not in _UNSAFE else json.dumps(c)[1:-1] for c in text
    )


#: Control, format (directions, joiners), surrogates, separators of lines and paragraphs.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def one_line(value: Any, width: int | None = None) -> str:
    """``value`` as JSON in one line, cut to ``width`` characters."""
    text = clean(msgspec.json.encode(value).decode())
    return text if width is None or len(text) <= width else text[: max(width - 1, 0)] + "…"


def when(ms: object) -> str:
    """Milliseconds since 1970 as a time in UTC; anything else as it is."""
    if not isinstance(ms, (int, float)) or not 0 <= ms < 253_402_300_800_000:
        return clean(str(ms))
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


class Output:
    """Where a command prints to. ``as_json`` says whether programs read it."""

    def __init__(
        self,
        *,
        as_json: bool,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        environment = os.environ if environment is None else environment
        self.json = as_json
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self.is_terminal = self._out.isatty()
        columns = shutil.get_terminal_size((80, 24)).columns
        #: Characters of a line for people; None where lines are not cut, because nobody looks at them.
        self.width = min(max(columns, 20), MAX_COLUMNS) if self.is_terminal else None
        self._console = self._make(self._out, environment)
        self._errors = self._make(self._err, environment)

    def _make(self, file: IO[str], environment: Mapping[str, str]) -> Console:
        plain = not file.isatty() or bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return Console(
            file=file,
            force_terminal=not plain,
            no_color=plain,
            color_system=None if plain else "standard",
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )

    @property
    def console(self) -> Console:
        """Where pictures that change are drawn. What is drawn has to be cleaned before."""
        return self._console

    # -- for programs --------------------------------------------------------------------------------

    def value(self, value: Any) -> None:
        """One JSON value on a line of its own."""
        self._out.write(clean(msgspec.json.encode(value).decode()) + "\n")
        self._out.flush()

    def fault(self, shown: Mapping[str, object]) -> None:
        """An error as one JSON line on standard error."""
        self._err.write(clean(msgspec.json.encode({"error": shown}).decode()) + "\n")
        self._err.flush()

    # -- for people ----------------------------------------------------------------------------------

    def line(self, *parts: str | tuple[str, str]) -> None:
        """A line of parts, each a text or (text, style). They are cleaned."""
        self._console.print(_text(parts))
        self._out.flush()

    def note(self, *parts: str | tuple[str, str]) -> None:
        """A line on standard error: what a person wants to know, and no program."""
        self._errors.print(_text(parts))
        self._err.flush()

    def block(self, text: str, style: str = "") -> None:
        """Lines as they are, but cleaned."""
        self._console.print(Text(clean(text, lines=True), style=style))

    def pretty(self, value: Any) -> None:
        """``value`` as indented JSON."""
        self.block(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Aligned columns; on a terminal the last one is cut where the line ends."""
        texts = [[clean(str("" if cell is None else cell)) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
        self.line((self._row(head, widths), "bold"))
        for row in texts:
            self.line(self._row(row, widths))

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        return self.fitted(text)

    def fitted(self, text: str) -> str:
        """``text``, cut to the width of the terminal where there is one."""
        if self.width is None or len(text) <= self.width:
            return text
        return text[: self.width - 1] + "…"


def _text(parts: Sequence[str | tuple[str, str]]) -> Text:
    made = Text()
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        made.append(clean(text), style=style)
    return made
