"""The report of ``scripts/isolation_test`` as one HTML file, in the style of the load test's."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from benchmarks.isolation.report import Run
from benchmarks.isolation.verdict import Row, percentile
from benchmarks.load.charts import Line, bars, chart
from benchmarks.load.page import STYLE, table_of

#: Room for the names of attacks beside their bars.
_LEFT: Final = 270
#: Where the axis of the distribution begins, in milliseconds.
_LEAST_MS: Final = 0.1
#: The style of wide tables: the load test's have numbers alone.
_MORE: Final = """
body { max-width: 1100px } td:nth-child(3):nth-last-child(7), th:nth-child(3):nth-last-child(7) { text-align: left } .good { color: var(--a) }
td:last-child { white-space: nowrap } details { margin: .5em 0 }
"""


def page(run: Run) -> str:
    """The whole file."""
    verdict = (
        f'<p class="bad"><b>{html.escape(run.summary)}</b></p><ul class="bad">'
        + "".join(f"<li>{html.escape(text)}</li>" for text in run.problems[:40])
        + "</ul>"
        if run.problems
        else f'<p class="good"><b>{html.escape(run.summary)}.</b></p>'
    )
    misses = run.misses
    missed = (
        f"<details><summary>{len(misses)} wanted figures were missed</summary><ul>"
        + "".join(f"<li>{html.escape(text)}</li>" for text in misses)
        + "</ul></details>"
        if misses
        else "<p>All wanted figures were met.</p>"
    )
    body = [
        "<h1>panels under attack</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in run.report.head().splitlines()),
        f"<p><code>{html.escape(run.report.command)}</code>, {run.report.date}</p>",
        f"<p>{run.took_s:.0f} s, load average {run.load[0]:.1f} to {run.load[1]:.1f}</p>",
        verdict,
        missed,
        f"<p>{html.escape(run.arrangement)} Confined by {html.escape(run.layers)}.</p>",
        *_charts(run),
        *(table_of(table) for table in (*run.report.tables[1:], run.report.tables[0])),
    ]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>panels under attack</title><style>{STYLE}{_MORE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )


def _charts(run: Run) -> list[str]:
    during = [row.window for row in run.rows]
    quiet = [window for row in run.rows for window in row.quiet]
    made = [
        chart(
            "How many neighbours are answered within",
            [
                Line("between attacks", "b", distribution(run, quiet)),
                Line("during attacks", "a", distribution(run, during)),
            ],
            x_unit="milliseconds",
            y_unit="per cent",
            log_x=True,
        ),
        chart(
            "Neighbours over time",
            [Line("p50", "a", by_second(run, 0.5)), Line("p99", "a2", by_second(run, 0.99))],
            x_unit="seconds",
            y_unit="milliseconds",
        ),
        bars("Neighbours' p99, by the family of the attack", _families(run), unit="ms", left=_LEFT),
    ]
    late = [
        (f"{row.family}: {row.name}", [("ms", "gateway", row.late_ms)]) for row in run.rows if row.late_ms
    ]
    if late:
        made.append(bars("Stopped after the deadline, at most", late, unit="ms", left=_LEFT))
    return made


def distribution(run: Run, windows: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """(milliseconds, per cent answered within them) of the triggers within ``windows``, in up to 200
    points.
    """
    inside = _inside(run, windows)
    step = max(1, len(inside) // 200)
    return [(max(_LEAST_MS, inside[at]), 100 * (at + 1) / len(inside)) for at in range(0, len(inside), step)]


def by_second(run: Run, share: float) -> list[tuple[float, float]]:
    """(second, percentile) of each second of the run that had triggers."""
    stamped = sorted(zip(run.observed.at_s, run.observed.latency_ms, strict=True))
    return [
        (float(second), percentile(sorted(latency for _, latency in group), share))
        for second, group in groupby(stamped, key=lambda pair: math.floor(pair[0] - run.started_s))
        if second >= 0
    ]


def _families(run: Run) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """For each family what the neighbours' p99 was without it, and what it added."""
    made: list[tuple[str, list[tuple[str, str, float]]]] = []
    for family, group in groupby(run.rows, key=lambda row: row.family):
        rows: list[Row] = list(group)
        quiet = _inside(run, [window for row in rows for window in row.quiet])
        during = _inside(run, [row.window for row in rows])
        if quiet and during:
            base, disturbed = percentile(quiet, 0.99), percentile(during, 0.99)
            parts = [
                ("undisturbed", "gateway", min(base, disturbed)),
                ("added", "workers", max(0.0, disturbed - base)),
            ]
            made.append((family, parts))
    return made


def _inside(run: Run, windows: Sequence[tuple[float, float]]) -> list[float]:
    """Latencies of triggers that were due within ``windows``, in order."""
    return sorted(
        latency
        for at, latency in zip(run.observed.at_s, run.observed.latency_ms, strict=True)
        if any(begin <= at < end for begin, end in windows)
    )
