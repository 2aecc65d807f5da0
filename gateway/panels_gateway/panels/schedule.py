"""When a tool that runs by itself is due. Pure; times are milliseconds since 1970 by the wall clock.

An interval is due at whole multiples of its length after its panel was made, a cron expression at the minutes
that it names in its time zone (by the library cronsim, which knows about daylight saving). So when a tool is
due depends on nothing that a restart could lose, and a due time names a run: it is run once, whoever asks how
often.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim

from panels_gateway.panels.definition import Cron, Interval

#: How many due times that were missed are run after a downtime, at the most; a security limit.
MAX_MISSED: Final = 1_000

#: How far back the latest due time of a cron expression is looked for at first.
_FIRST_SPAN_MS: Final = 3_600_000

Timed = Interval | Cron


class _Due(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    type: Literal["timer"]
    due_ms: int


_due_decoder = msgspec.json.Decoder(_Due)


def due_of(args: bytes) -> int | None:
    """The due time in the args of a run, None for args of another trigger."""
    try:
        return _due_decoder.decode(args).due_ms
    except msgspec.DecodeError:
        return None


def due_after(timed: Timed, created_ms: int, after_ms: int) -> Iterator[int]:
    """The due times after ``after_ms``, the earliest first. There may be no end to them."""
    if isinstance(timed, Interval):
        due = created_ms + ((after_ms - created_ms) // timed.ms + 1) * timed.ms
        while True:
            yield due
            due += timed.ms
    begin = datetime.fromtimestamp(after_ms / 1000, UTC).astimezone(ZoneInfo(timed.timezone))
    for found in CronSim(timed.expression, begin):
        yield int(found.timestamp() * 1000)


def missed(timed: Timed, created_ms: int, last_ms: int | None, now_ms: int) -> list[int]:
    """The due times up to ``now_ms`` that are still to be run, as the trigger's ``misfire`` says.

    ``last_ms`` is the due time that was run last; None for none, and nothing was missed then: a tool begins
    when it is made.
    """
    if last_ms is None or timed.misfire == "skip":
        return []
    if timed.misfire == "once":
        return _latest(timed, created_ms, last_ms, now_ms)
    return list(islice(_until(due_after(timed, created_ms, last_ms), now_ms), MAX_MISSED))


def _latest(timed: Timed, created_ms: int, last_ms: int, now_ms: int) -> list[int]:
    # looked for backwards in growing spans, so that a long downtime costs no more than a short one
    span_ms = timed.ms if isinstance(timed, Interval) else _FIRST_SPAN_MS
    while True:
        after_ms = max(last_ms, now_ms - span_ms)
        found = list(_until(due_after(timed, created_ms, after_ms), now_ms))
        if found or after_ms == last_ms:
            return found[-1:]
        span_ms *= 24


def _until(times: Iterator[int], end_ms: int) -> Iterator[int]:
    for time in times:
        if time > end_ms:
            return
        yield time
