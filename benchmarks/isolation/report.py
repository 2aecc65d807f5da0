"""One run of the corpus, and its tables."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import msgspec

from benchmarks.isolation.neighbours import Observed
from benchmarks.isolation.verdict import LATE_MS, NOTHING_FELT, RATIO, Felt, Row, felt, misses, ratio
from benchmarks.report import Report, Table

_MIB = 2**20


@dataclass(slots=True)
class Run:
    """Everything that was seen.

    ``memory`` is name of a kind of process → its bytes before and after, ``load`` the load average then.
    """

    rows: list[Row]
    observed: Observed
    report: Report
    started_s: float
    took_s: float
    layers: str
    arrangement: str
    memory: dict[str, tuple[int, int]]
    load: tuple[float, float]
    problems: list[str] = field(default_factory=list)
    disturbed: Felt = NOTHING_FELT
    undisturbed: Felt = NOTHING_FELT

    def compare(self, quiet: tuple[tuple[float, float], ...]) -> None:
        """Works out what the neighbours felt: of each attack, and of all of them against ``quiet``."""
        at_s, latency_ms = self.observed.at_s, self.observed.latency_ms
        for row in self.rows:
            row.disturbed = felt(at_s, latency_ms, [row.window])
            row.undisturbed = felt(at_s, latency_ms, row.quiet)
        self.disturbed = felt(at_s, latency_ms, [row.window for row in self.rows])
        self.undisturbed = felt(at_s, latency_ms, quiet)
        self.report.tables = [attacks(self.rows), neighbours(self), memory(self)]

    @property
    def p99_ratio(self) -> float | None:
        """The neighbours' p99 during all attacks, by their p99 between them."""
        return ratio(self.disturbed.p99_ms, self.undisturbed.p99_ms)

    @property
    def misses(self) -> list[str]:
        """The figures that were missed."""
        return misses(self.rows, self.p99_ratio)

    @property
    def summary(self) -> str:
        """The verdict in a line."""
        handlers = sum(row.calls for row in self.rows)
        verdict = "nothing got through" if not self.problems else f"{len(self.problems)} PROBLEMS"
        return f"{len(self.rows)} attacks, {handlers:,} hostile handlers and snippets: {verdict}"

    def publish(self) -> None:
        """Prints everything."""
        self.report.publish(None)
        print(f"{self.arrangement} Confined by {self.layers}.")
        print(f"{self.summary}.  {self.took_s:.0f} s, load average {self.load[0]:.1f} to {self.load[1]:.1f}")
        for text in self.problems[:40]:
            sys.stderr.write(f"problem: {text}\n")
        for text in self.misses:
            sys.stderr.write(f"figure missed: {text}\n")

    def encode(self) -> bytes:
        """All of it but the neighbours' single latencies, as JSON."""
        whole = {
            "report": self.report,
            "summary": self.summary,
            "layers": self.layers,
            "arrangement": self.arrangement,
            "problems": self.problems,
            "misses": self.misses,
            "p99Ratio": self.p99_ratio,
            "disturbed": self.disturbed,
            "undisturbed": self.undisturbed,
            "sent": self.observed.sent,
            "answered": self.observed.answered,
            "memory": self.memory,
            "load": self.load,
            "rows": self.rows,
        }
        return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def attacks(rows: list[Row]) -> Table:
    """A row for each attack."""
    made = Table(
        "Attacks",
        ("", "handlers", "stopped by", "ms to stop", "past deadline", "p50 ×", "p99 ×", "MiB", ""),
        notes=[
            "ms to stop: of the slowest handler, as the worker measures it; for what is refused, until the refusal.",
            "past deadline: ms after the deadline of those that it stopped.",
            (
                "p50 ×, p99 ×: of the neighbours' triggers during the attack, by those just before and after it; "
                "the p99 of one attack is of few triggers."
            ),
            "MiB: the most that one sandbox process had resident.",
        ],
    )
    for row in rows:
        made.add(
            f"{row.family}: {row.name}",
            row.calls,
            row.stopped_by,
            row.stopped_ms,
            row.late_ms,
            row.p50_ratio,
            row.p99_ratio,
            row.peak_bytes // _MIB or None,
            "FAILED" if row.all_problems else "held",
        )
    return made


def neighbours(run: Run) -> Table:
    """What well-behaved clients felt, of all windows together."""
    made = Table(
        "Neighbours",
        ("", "triggers", "p50 ms", "p99 ms"),
        notes=[
            (
                f"{run.observed.sent:,} triggers sent, {run.observed.answered:,} answered well. A latency counts "
                "from when the trigger was due."
            ),
            f"Wanted: a p99 of at most {RATIO:g} times, and a handler stopped within {LATE_MS:g} ms of its deadline.",
        ],
    )
    made.add("between attacks", run.undisturbed.samples, run.undisturbed.p50_ms, run.undisturbed.p99_ms)
    made.add("during attacks", run.disturbed.samples, run.disturbed.p50_ms, run.disturbed.p99_ms)
    made.add("times", None, ratio(run.disturbed.p50_ms, run.undisturbed.p50_ms), run.p99_ratio)
    return made


def memory(run: Run) -> Table:
    """Resident memory before the first attack and after the last."""
    made = Table(
        "Memory", ("", "before MiB", "after MiB"), notes=["Pages that processes share count in each."]
    )
    for name, (before, after) in run.memory.items():
        made.add(name, before / _MIB, after / _MIB)
    return made
