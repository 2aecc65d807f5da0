"""What `panels top` makes of the gateway's metrics: rates between two looks, and quantiles. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

#: Lines of metrics that are looked at.
MAX_LINES: Final = 100_000
#: Panels and reasons that are shown.
MAX_ROWS: Final = 50

_LABEL_TEXT: Final = r'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"'
_LABEL: Final = re.compile(_LABEL_TEXT, re.ASCII)
_LINE: Final = re.compile(rf"([A-Za-z_:][\w:]*)(?:\{{((?:{_LABEL_TEXT},?)*)\}})? (\S+)", re.ASCII)
_ESCAPES: Final = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the metrics: values by name and labels, at a time in monotonic seconds."""

    at_s: float
    values: Mapping[str, Mapping[Labels, float]]

    def one(self, name: str) -> float | None:
        """The value of a metric without labels, None where the gateway has no such metric."""
        return self.values.get(name, {}).get(())

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return math.fsum(self.values.get(name, {}).values())

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values by the value of one label."""
        found: dict[str, float] = {}
        for labels, value in self.values.get(name, {}).items():
            key = dict(labels).get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found


def parse(text: str, at_s: float) -> Look:
    """Reads the text format of Prometheus; lines that are not of it are left out."""
    values: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines()[:MAX_LINES]:
        found = _LINE.fullmatch(line)
        if line.startswith("#") or found is None:
            continue
        try:
            value = float(found[5])
        except ValueError:
            continue
        labels = tuple((name, _unescaped(raw)) for name, raw in _LABEL.findall(found[2] or ""))
        values.setdefault(found[1], {})[labels] = value
    return Look(at_s, values)


def _unescaped(raw: str) -> str:
    return re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), raw)


@dataclass(frozen=True, slots=True)
class Overview:
    """What is shown. Rates are per second; quantiles are milliseconds, None where nothing was timed.

    ``panels``: fuel of the last minute by panel, the most first. ``failing``: the panels whose triggers
    failed in the last minute, and how many did. Both have one row for all other panels. ``failures``: of each
    reason a second, the most frequent first.
    """

    triggers: float
    failed: float
    refused: float
    p50_ms: float | None
    p99_ms: float | None
    busy: float
    fuel: float
    levels: Mapping[str, float]
    panels: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    failures: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    failing: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])


#: Levels that are shown as they are.
LEVELS: Final = (
    "panels_workers",
    "panels_jobs_waiting",
    "panels_jobs_in_flight",
    "panels_jobs_held",
    "panels_connections",
    "panels_stream_readers",
    "panels_panels",
    "panels_resident_panels",
    "panels_suspensions",
    "panels_pool_memory_bytes",
    "panels_journal_lag_batches",
    "panels_journal_backlog_bytes",
    "panels_circuits_open",
    "process_resident_memory_bytes",
)
#: Counters of triggers that were not run.
_REFUSED: Final = (
    "panels_triggers_overloaded_total",
    "panels_triggers_over_quota_total",
    "panels_triggers_circuit_open_total",
    "panels_triggers_refused_total",
)


def overview(before: Look, now: Look) -> Overview:
    """What happened between two looks. A counter that went down began anew with the gateway."""
    seconds = max(now.at_s - before.at_s, 1e-3)

    def rate(name: str) -> float:
        return grown(before.total(name), now.total(name)) / seconds

    reasons = now.by("panels_triggers_failed_total", "reason")
    earlier = before.by("panels_triggers_failed_total", "reason")
    failures = [(name, grown(earlier.get(name, 0.0), value) / seconds) for name, value in reasons.items()]
    workers = now.one("panels_workers") or 0.0
    running = rate("panels_execution_seconds_total")
    return Overview(
        triggers=rate("panels_triggers_total"),
        failed=rate("panels_triggers_failed_total"),
        refused=sum(rate(name) for name in _REFUSED),
        p50_ms=quantile(before, now, "panels_trigger_seconds", 0.5),
        p99_ms=quantile(before, now, "panels_trigger_seconds", 0.99),
        busy=running / workers if workers else 0.0,
        fuel=rate("panels_fuel_total"),
        levels={name: value for name in LEVELS if (value := now.one(name)) is not None},
        panels=_most(now.by("panels_panel_fuel", "panel").items()),
        failures=_most(item for item in failures if item[1] > 0),
        failing=failing(now),
    )


def failing(now: Look) -> list[tuple[str, float]]:
    """The panels whose triggers failed in the last whole minute, and how many did, the most first."""
    return _most(item for item in now.by("panels_panel_failures", "panel").items() if item[1] > 0)


def _most(rows: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:MAX_ROWS]


def grown(before: float, now: float) -> float:
    """How much a counter grew."""
    return now - before if now >= before else now


def quantile(before: Look, now: Look, name: str, share: float) -> float | None:
    """The upper bound of the bucket that the quantile of what was timed meanwhile lies in, in
    milliseconds.
    """
    counts = dict(_buckets(now, name))
    old = dict(_buckets(before, name))
    # buckets are cumulative: a histogram that began anew has fewer in its last one
    begun = counts.get(math.inf, 0.0) < old.get(math.inf, 0.0)
    grew = {bound: count - (0.0 if begun else old.get(bound, 0.0)) for bound, count in counts.items()}
    total = grew.get(math.inf, 0.0)
    if total <= 0:
        return None
    reached = [bound for bound, count in sorted(grew.items()) if count >= share * total]
    return reached[0] * 1e3 if reached else None


def _buckets(look: Look, name: str) -> Iterator[tuple[float, float]]:
    for label, value in look.by(f"{name}_bucket", "le").items():
        try:
            yield float(label), value
        except ValueError:
            continue
