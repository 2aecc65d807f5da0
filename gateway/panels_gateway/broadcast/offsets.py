"""Where a reader of a panel's stream stands, as text: offsets and cursors. Pure.

    EPOCH_0000000000000042      the epoch that clients see, and the version, in 16 digits
    -1                          the beginning of the stream
    now                         its end, as it is when somebody asks

The offset behind a commit names the commit's version: a reader that gives it is sent what came after. Offsets
of one epoch sort as their versions do. Readers treat them as opaque; that they can be read is ours alone.

A cursor is the number of a stretch of ``INTERVAL_S`` seconds. It is part of the URL of the next request, so
that a cache does not give one reader the same empty answer for ever.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from panels_shared.errors import Code, RequestError

#: Characters of an offset, digits of a cursor; security limits.
MAX_OFFSET_CHARS: Final = 96
MAX_CURSOR_DIGITS: Final = 16

#: Cursors count stretches of so many seconds from the protocol's date on, 2024-10-09.
INTERVAL_S: Final = 20
CURSOR_EPOCH_S: Final = 1_728_432_000
#: By how many stretches a cursor is put forward where a reader has the present one already; an hour.
JITTER: Final = 3_600 // INTERVAL_S

_OFFSET: Final = re.compile(r"([A-Za-z0-9._-]{1,64})_([0-9]{16})", re.ASCII)
_CURSOR: Final = re.compile(rf"[0-9]{{1,{MAX_CURSOR_DIGITS}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Offset:
    """A position in the stream of one epoch: behind the commit of version ``seq``."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}_{self.seq:016d}"


#: What a reader may ask for.
Start = Offset | Literal["beginning", "now"]


def parse_offset(text: str | None) -> Start:
    """What ``?offset=`` says; None where it is not given. Raises ``RequestError`` INVALID_REQUEST."""
    if text is None or text == "-1":
        return "beginning"
    if text == "now":
        return "now"
    found = _OFFSET.fullmatch(text) if len(text) <= MAX_OFFSET_CHARS else None
    if found is None:
        raise RequestError(
            Code.INVALID_REQUEST,
            "offset: expected -1, now, or what Stream-Next-Offset said, got something else",
            {"path": "offset"},
        )
    return Offset(found[1], int(found[2]))


def cursor(now_s: float, given: str | None, random: Callable[[], float]) -> str:
    """The cursor of an answer at ``now_s`` (Unix seconds) to a reader that came with ``given``.

    It is always greater than the reader's. ``random`` gives a number from 0 to 1. A cursor that is no number
    counts as none.
    """
    present = max(0, int(now_s - CURSOR_EPOCH_S) // INTERVAL_S)
    if given is None or _CURSOR.fullmatch(given) is None or int(given) < present:
        return str(present)
    following = int(given) + 1 + int(random() * JITTER)
    # one that is as large as can be begins again, or it could not be given back
    return str(following if len(str(following)) <= MAX_CURSOR_DIGITS else present)


def etag(start: Start, end: Offset, subject: str | None = None) -> str:
    """The entity tag of what lies between two positions; with ``subject`` where they are sent something that
    others are not.
    """
    reader = "" if subject is None else f":{hashlib.sha256(subject.encode()).hexdigest()[:16]}"
    return f'"{"-1" if start == "beginning" else start}:{end}{reader}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether a reader that sends this If-None-Match has what ``tag`` names."""
    if if_none_match is None:
        return False
    given = [text.strip().removeprefix("W/") for text in if_none_match.split(",")]
    return tag in given or given == ["*"]
