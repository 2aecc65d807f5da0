"""What came back, what of it is wrong, and what neighbours felt. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.isolation.attack import RETURNED, UNCHECKED, Call

#: How long after its deadline a handler may be stopped, in milliseconds: a figure that is wanted.
LATE_MS: Final = 20.0
#: How many times their undisturbed p99 the neighbours' may be: a figure that is wanted.
RATIO: Final = 2.0
#: Samples without which a percentile of a window says nothing.
_FEW: Final = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back of one call: ``word`` is among those that ``Call.expected`` may hold.

    ``took_ms`` is until its answer; ``ran_ms`` what the worker measured, None where nothing ran.
    """

    name: str
    word: str
    took_ms: float
    ran_ms: float | None = None
    deadline_ms: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def stopped_ms(self) -> float:
        """How long it ran, or until it was refused."""
        return self.took_ms if self.ran_ms is None else self.ran_ms

    @property
    def late_ms(self) -> float | None:
        """How long after its deadline it was stopped; None where its deadline did not stop it."""
        if self.deadline_ms is None or self.ran_ms is None or self.ran_ms < self.deadline_ms:
            return None
        return self.ran_ms - self.deadline_ms


def judge(
    call: Call,
    status: int,
    message: dict[str, Any],
    took_ms: float,
    *,
    heard: Sequence[dict[str, Any]] = (),
    commits: bool = False,
) -> Seen:
    """What came back of a call: an HTTP ``status`` with an error's body, or (``status`` 101) a message of the
    socket, and before it ``heard``.
    """  # fmt: skip
    word, ran_us = _word(status, message)
    problems: list[str] = []
    if not call.allows(word):
        wanted = " or ".join(sorted(call.expected))
        problems.append(f"expected {wanted}, got {word}: {json.dumps(message)[:300]}")
    if word == RETURNED:
        value = message["result"]["returnValue"]
        if call.returns is not UNCHECKED and value != call.returns:
            problems.append(f"expected the result {call.returns!r}, got {json.dumps(value)[:200]}")
    elif heard:
        problems.append(f"it failed, and yet others heard {json.dumps(heard[0])[:200]}")
    if heard and word == RETURNED and not commits and "*" not in call.expected:
        problems.append(f"it was to change nothing, and others heard {json.dumps(heard[0])[:200]}")
    if call.secret and call.secret in json.dumps(message):
        problems.append("the answer holds what was hidden")
    return Seen(
        call.name,
        word,
        took_ms,
        None if ran_us is None else ran_us / 1e3,
        call.deadline_ms,
        tuple(f"{call.name}: {text}" for text in problems),
    )


def _word(status: int, message: dict[str, Any]) -> tuple[str, float | None]:
    if status != 101:
        error = message.get("error", {})
        if status == 422 and error.get("code") == "INVALID_HANDLER":
            return f"refused:{error['details']['reason']}", None
        return f"http:{status}", None
    if message["type"] == "RESULT":
        return RETURNED, message["result"]["metrics"]["executionTimeUs"]
    details = message.get("details") or {}
    if message["code"] == "EXECUTION_ERROR":
        return str(details["reason"]), details.get("executionTimeUs")
    return str(message["code"]), None


# -- what neighbours felt ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Felt:
    """Latencies of the neighbours in some windows, in milliseconds; None where there are too few of them."""

    samples: int
    p50_ms: float | None
    p99_ms: float | None


NOTHING_FELT: Final = Felt(0, None, None)
Windows = Sequence[tuple[float, float]]


def felt(at_s: Sequence[float], latency_ms: Sequence[float], windows: Windows) -> Felt:
    """What they felt of triggers that were due within ``windows`` (begin and end, in seconds)."""
    inside = sorted(
        latency
        for at, latency in zip(at_s, latency_ms, strict=True)
        if any(begin <= at < end for begin, end in windows)
    )
    if len(inside) < _FEW:
        return Felt(len(inside), None, None)
    return Felt(len(inside), percentile(inside, 0.5), percentile(inside, 0.99))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of ``ordered``, which must not be empty, that ``share`` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratio(disturbed: float | None, quiet: float | None) -> float | None:
    """How many times as long; None where either is not known."""
    return disturbed / quiet if disturbed is not None and quiet else None


# -- one attack --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """One attack, as it went. Times are monotonic seconds."""

    family: str
    name: str
    seen: list[Seen] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    window: tuple[float, float] = (0.0, 0.0)
    quiet: tuple[tuple[float, float], ...] = ()
    peak_bytes: int = 0
    disturbed: Felt = NOTHING_FELT
    undisturbed: Felt = NOTHING_FELT
    replaced: int = 0

    @property
    def calls(self) -> int:
        """How many handlers it sent."""
        return len({each.name for each in self.seen})

    @property
    def stopped_by(self) -> str:
        """What stopped it, most often first; ``returned`` where a harmless answer was all it got."""
        counted = Counter(each.word for each in self.seen)
        shown = [f"{word} {count}" if len(counted) > 1 else word for word, count in counted.most_common(3)]
        return ", ".join(shown) + (", …" if len(counted) > 3 else "")

    @property
    def stopped_ms(self) -> float | None:
        """The longest until it was stopped."""
        return max((each.stopped_ms for each in self.seen), default=None)

    @property
    def late_ms(self) -> float | None:
        """The longest after a deadline."""
        return max((late for each in self.seen if (late := each.late_ms) is not None), default=None)

    @property
    def p50_ratio(self) -> float | None:
        """The neighbours' p50, in its window and around it."""
        return ratio(self.disturbed.p50_ms, self.undisturbed.p50_ms)

    @property
    def p99_ratio(self) -> float | None:
        """The neighbours' p99, in its window and around it."""
        return ratio(self.disturbed.p99_ms, self.undisturbed.p99_ms)

    @property
    def all_problems(self) -> list[str]:
        """Whatever got through."""
        return [*self.problems, *(problem for each in self.seen for problem in each.problems)]


def misses(rows: Sequence[Row], p99_ratio: float | None) -> list[str]:
    """The figures that were missed, as sentences."""
    found = [
        f"{row.name}: {late.name} was stopped {late.late_ms:.1f} ms after its deadline; wanted are {LATE_MS:g}"
        for row in rows
        for late in row.seen
        if late.late_ms is not None and late.late_ms > LATE_MS
    ]
    if p99_ratio is not None and p99_ratio > RATIO:
        found.append(
            f"the neighbours' p99 was {p99_ratio:.2f} times its undisturbed value; wanted is {RATIO:g}"
        )
    return found
