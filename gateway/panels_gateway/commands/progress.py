"""How far a command is: a bar that is drawn over itself on a terminal, a line every tenth elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self, TextIO

_BAR_CHARS: Final = 30


def bar(what: str, done: int, total: int) -> str:
    """One line with a bar. ``total`` 0 counts as done."""
    share = min(1.0, done / total) if total else 1.0
    filled = int(share * _BAR_CHARS)
    return f"{what} [{'#' * filled}{'.' * (_BAR_CHARS - filled)}] {int(share * 100):3d} %"


class Progress:
    """Called with how much is done, of how much; a context, so that the bar's line ends whatever happens."""

    def __init__(self, what: str, stream: TextIO) -> None:
        self._what = what
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = ""
        self._tenth = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and self._shown:
            self._write("\n")

    def __call__(self, done: int, total: int) -> None:
        """Shows it if that looks different from what is shown."""
        if self._terminal:
            text = bar(self._what, done, total)
            if text != self._shown:
                self._shown = text
                self._write(f"\r{text}")
            return
        tenth = done * 10 // total if total else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self._write(f"{self._what}: {tenth * 10} %\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
