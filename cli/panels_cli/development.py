"""What `panels up` makes of changed files and of what its programs write. Pure.

A folder that cannot be read is looked at a second time before anybody is told: an editor that writes a file
in two steps would otherwise be told of the step between. The same problem is told once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from panels_shared.loglines import printable
from panels_shared.snippet import caret

#: Seconds after which a folder that could not be read is read again before its problem is told.
SECOND_LOOK_S: Final = 0.15

#: Seconds after which a folder is applied again that the gateway could not take.
AGAIN_S: Final = 1.0

_LISTENING: Final = re.compile(r"listening on (http://\S+?);")
_FAILED: Final = re.compile(r"[^/ ]+/[^: ]+: failed\b")
_UNREPEATED: Final = re.compile(r"[^/ ]+/[^: ]+: would not replay\b")
_PLACE: Final = re.compile(r"\bline (\d+)(?:, column (\d+))?")


class _Record(msgspec.Struct, frozen=True):
    """What matters here of a line that the gateway or the pool logs with ``--log-format json``."""

    level: str
    logger: str
    event: str


_decoder: Final = msgspec.json.Decoder(_Record)


@dataclass(slots=True)
class _Known:
    applied: str = ""
    told: str = ""
    due_s: float | None = None
    looks: int = 0


@dataclass(slots=True)
class Watched:
    """The folders that are watched. Times are monotonic seconds."""

    _known: dict[Path, _Known] = field(default_factory=dict[Path, _Known])

    def changed(self, folders: Iterable[Path], now_s: float) -> None:
        """Something in these folders changed: they are due now."""
        for folder in folders:
            known = self._known.setdefault(folder, _Known())
            known.due_s, known.looks = now_s, 0

    def due(self, now_s: float) -> list[Path]:
        """The folders to read now; they are not due any more."""
        ready = sorted(path for path, known in self._known.items() if _is_due(known, now_s))
        for path in ready:
            self._known[path].due_s = None
        return ready

    def next_s(self) -> float | None:
        """When a folder is due, None for none."""
        return min((known.due_s for known in self._known.values() if known.due_s is not None), default=None)

    def is_news(self, folder: Path, fingerprint: str) -> bool:
        """Whether a folder that was read differs from what was applied last."""
        known = self._known.setdefault(folder, _Known())
        if known.applied != fingerprint:
            return True
        mended, known.told = bool(known.told), ""
        return mended

    def applied(self, folder: Path, fingerprint: str) -> None:
        """The gateway has it."""
        known = self._known.setdefault(folder, _Known())
        known.applied, known.told, known.looks = fingerprint, "", 0

    def forget(self, folder: Path) -> None:
        """The folder is gone."""
        self._known.pop(folder, None)

    def failed(self, folder: Path, problem: str, now_s: float, *, unread: bool, again: bool) -> bool:
        """Whether to tell the problem now. With ``unread`` the files were at fault, or nobody answered, which
        may change in a moment; otherwise the gateway refused them, ``again`` if it may take them later.
        """
        known = self._known.setdefault(folder, _Known())
        known.looks += 1
        if again:
            known.due_s = now_s + AGAIN_S
        if unread and known.looks == 1:
            known.due_s = now_s + SECOND_LOOK_S
            return False
        told, known.told = known.told, problem
        return told != problem


def _is_due(known: _Known, now_s: float) -> bool:
    return known.due_s is not None and known.due_s <= now_s


def owners(folders: Iterable[Path], paths: Iterable[str]) -> list[Path]:
    """Those of ``folders`` in which one of ``paths`` lies."""
    changed = [Path(path) for path in paths]
    return [folder for folder in folders if any(path.is_relative_to(folder) for path in changed)]


@dataclass(frozen=True, slots=True)
class Logged:
    """A line that the gateway or the pool logged and that somebody who writes handlers wants to see."""

    kind: Literal["handler", "failed", "warning", "error"]
    text: str


def listening(line: str) -> str | None:
    """The URL, if the gateway says by ``line`` that it listens."""
    found = _LISTENING.search(line)
    return found[1] if found else None


def logged(line: str, *, quiet: frozenset[str] = frozenset()) -> Logged | None:
    """What to show of a line of a log in JSON, None for nothing. ``quiet`` are texts expected here."""
    try:
        record = _decoder.decode(line)
    except msgspec.MsgspecError:
        return None
    level, logger, text = record.level, record.logger, printable(record.event)
    if any(part in text for part in quiet):
        return None
    if logger == "panels.handler":
        if _UNREPEATED.match(text):
            return Logged("warning", text)
        return Logged("failed" if _FAILED.match(text) else "handler", text)
    if level in ("error", "critical"):
        return Logged("error", text)
    return Logged("warning", text) if level == "warning" else None


def failure(text: str, files: Mapping[tuple[str, str], tuple[Path, str]]) -> tuple[str, tuple[str, ...]]:
    """A handler's line ``PANEL/TOOL: …`` with the file that it is about and the source at its place.

    ``files`` has the file and source of each (panel, tool).
    """
    name, _, rest = text.partition(": ")
    panel, _, tool = name.partition("/")
    there = files.get((panel, tool))
    place = _PLACE.search(rest)
    if there is None or place is None:
        return text, ()
    file, source = there
    line, column = int(place[1]), int(place[2]) if place[2] else None
    where = f"{file}:{line}" + (f":{column}" if column is not None else "")
    return f"{where}: {text}", caret(source, line, column)
