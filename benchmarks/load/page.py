"""A load test's report as one HTML file: tables, and charts of latency and throughput over time."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from benchmarks.load.charts import Line, bars, chart
from benchmarks.load.run import Report as Run
from benchmarks.report import Report, Table

#: The style sheet of all reports.
STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --rule: #e4e7ec; --paper: #fff;
  --a: #2563eb; --b: #d97706; --a2: #93b4f5; --b2: #f0c48a; --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ef; --soft: #98a2b3; --rule: #2d3440; --paper: #14181f;
  --a: #7aa5ff; --b: #f0b35b; --a2: #3f5c94; --b2: #7d6136; --bad: #ff8a7a } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 920px; margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .25rem } h2 { font-size: 1rem; margin: 2rem 0 0 }
p { color: var(--soft); margin: .25rem 0 }
code { font-size: .85em } figure { margin: 2rem 0 } svg { width: 100%; height: auto; display: block }
figcaption { margin-bottom: .25rem } small { color: var(--soft) }
figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem } small { flex: 1 }
.key { color: var(--soft); font-size: .85rem } figcaption b + .key { margin-left: auto }
.key i { display: inline-block; width: 1.2rem; height: 3px; margin-right: .4rem; vertical-align: middle }
.on { fill: var(--paper); font-size: 12px } .bar { stroke: none }
.grid { stroke: var(--rule) } .tick { fill: var(--soft); font-size: 12px }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.a { stroke: var(--a); background: var(--a) } .b { stroke: var(--b); background: var(--b) }
.a2 { stroke: var(--a2); background: var(--a2) } .b2 { stroke: var(--b2); background: var(--b2) }
.gateway { fill: var(--a); background: var(--a) } .workers { fill: var(--b); background: var(--b) }
.clients { fill: var(--soft); background: var(--soft) }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 .75rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--rule); text-align: right }
th { color: var(--soft); font-weight: 500 }
th:first-child, td:first-child { text-align: left } .bad { color: var(--bad) }
"""


def page(report: Report, runs: Sequence[Run]) -> str:
    """The whole file. ``runs`` in the order of importance: panels, then what it is compared with."""
    styles = [("a", "a2"), ("b", "b2")]
    throughput, latency, distribution = [], [], []
    for run, (strong, weak) in zip(runs, styles, strict=False):
        throughput.append(Line(run.name, strong, [(at, rate) for at, rate, _, _ in run.timeline[:-1]]))
        seen = [row for row in run.timeline if row[1] > 0]
        latency.append(Line(f"{run.name} p50", strong, [(at, p50) for at, _, p50, _ in seen]))
        latency.append(Line(f"{run.name} p99", weak, [(at, p99) for at, _, _, p99 in seen]))
        distribution.append(Line(run.name, strong, run.distribution))
    cpu = [
        (
            run.name,
            [
                ("server", "gateway", run.server_cpu_us),
                ("sandboxes", "workers", run.worker_cpu_us),
                ("clients", "clients", run.client_cpu_us),
            ],
        )
        for run in runs
    ]
    violations = [text for run in runs for text in run.violations]
    verdict = (
        f'<p class="bad"><b>{len(violations)} violations</b>: {html.escape("; ".join(violations[:5]))}</p>'
        if violations
        else "<p>Every answer was checked: each request answered once, versions without gaps, "
        "final states as counted.</p>"
    )
    body = [
        "<h1>panels under load</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in report.head().splitlines()),
        f"<p><code>{html.escape(report.command)}</code>, {report.date}</p>",
        verdict,
        *(table_of(table) for table in report.tables),
        chart("Throughput", throughput, x_unit="seconds", y_unit="answers per second"),
        chart("Latency", latency, x_unit="seconds", y_unit="milliseconds"),
        chart(
            "How many are answered within", distribution, x_unit="milliseconds", y_unit="per cent", log_x=True
        ),
        bars("CPU per trigger", cpu, unit="µs"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>panels under load</title><style>{STYLE}</style>\n" + "\n".join(body) + "\n</html>\n"
    )


def table_of(table: Table) -> str:
    """A report's table as HTML."""
    cells = [[html.escape(cell) for cell in row] for row in table.shown()]
    head = "".join(f"<th>{cell}</th>" for cell in cells[0])
    rows = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[1:])
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    title = html.escape(table.title)
    return f"<h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}"
