"""Writes ``benchmarks/ISOLATION.md`` from what runs of ``scripts/isolation_test --json FILE`` measured.

python -m benchmarks.isolation.results FILE...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.isolation.verdict import LATE_MS, RATIO, Row
from benchmarks.report import Report, Table

RESULTS: Final = Path(__file__).resolve().parents[1] / "ISOLATION.md"
_HEAD: Final = """# Isolation

What runs of `scripts/isolation_test` measured last ([how to read it](../docs/isolation.md)); nothing here is typed by hand.
Clients, gateway and workers share the machine's cores.
"""
#: Options that say where a run was written to, and nothing of what it did.
_FILES: Final = re.compile(r" --(?:json|html)[= ]\S+")
#: The attack on which the lateness of whatever cannot be interrupted depends.
_BULK: Final = "bulk memory without end"


class Measured(msgspec.Struct, rename="camel"):
    """What is read of a run's JSON."""

    report: Report
    summary: str
    arrangement: str
    layers: str
    rows: list[Row]
    disturbed: dict[str, Any]
    undisturbed: dict[str, Any]
    sent: int
    answered: int
    p99_ratio: float | None = None
    load: tuple[float, float] | None = None


def document(runs: Sequence[Measured]) -> str:
    """The whole file, a part for each run."""
    return "\n".join([_HEAD, *(part(run) for run in runs)])


def part(run: Measured) -> str:
    """One run: what was wanted and measured, and what neighbours felt."""
    neighbours = Table("", ("", "triggers", "p50 ms", "p99 ms"))
    for name, felt in (("between attacks", run.undisturbed), ("during attacks", run.disturbed)):
        neighbours.add(name, felt["samples"], felt["p50_ms"], felt["p99_ms"])
    lines = [
        f"## {run.arrangement.rstrip('.')}",
        "",
        *(f"- {line}" for line in run.report.head().splitlines()),
        f"- `{_FILES.sub('', run.report.command)}`, {run.report.date}",
        f"- confined by {run.layers}",
    ]
    if run.load:
        lines.append(f"- load average {run.load[0]:.1f} before and {run.load[1]:.1f} after")
    return "\n".join(
        [*lines, "", targets(run).markdown(), "", neighbours.markdown(), "", f"{run.summary}.", ""]
    )


def targets(run: Measured) -> Table:
    """What is wanted, and what was measured."""
    table = Table("", ("what", "target", "measured", "met"))
    others = [late for row in run.rows if row.name != _BULK for late in _late(row)]
    bulk = [late for row in run.rows if row.name == _BULK for late in _late(row)]
    for what, found in (
        ("a handler's end after its deadline, latest", others),
        ("the same, of bulk operations on 120 MiB", bulk),
    ):
        if found:
            table.add(what, f"≤ {LATE_MS:g} ms", f"{max(found):.3g} ms", max(found) <= LATE_MS)
    if others:
        within = 100 * sum(late <= LATE_MS for late in others) / len(others)
        table.add(
            f"of {len(others):,} that their deadline ended, within {LATE_MS:g} ms",
            "–",
            f"{within:.1f} %",
            None,
        )
    if run.p99_ratio is not None:
        table.add(
            "neighbours' p99 during attacks, against between them",
            f"≤ {RATIO:g} ×",
            f"{run.p99_ratio:.3g} ×",
            run.p99_ratio <= RATIO,
        )
    table.add(
        "neighbours' triggers without a good answer",
        "0",
        f"{run.sent - run.answered:,}",
        run.sent == run.answered,
    )
    return table


def _late(row: Row) -> list[float]:
    return [late for seen in row.seen if (late := seen.late_ms) is not None]


def main(files: Sequence[str]) -> None:
    """The command."""
    runs = [msgspec.json.decode(Path(name).read_bytes(), type=Measured) for name in files]
    RESULTS.write_text(document(runs), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
