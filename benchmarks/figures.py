"""All figures that have a target, in one run: prints them and writes ``RESULTS.md`` beside this file.

Subjects that are compared alternate in rounds, and what counts is the median of the rounds' ratios:
these machines are noisy.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks import handlers, javascript, record
from benchmarks.handlers import Definition
from benchmarks.idle_clients import idle_clients
from benchmarks.load.run import Load, run
from benchmarks.load.run import Report as Run
from benchmarks.load.system import Options, System, panels, reference
from benchmarks.lone_sandbox import Engines, LoneSandbox, settle
from benchmarks.report import Report, Table, command, parser
from benchmarks.rival_quickjs import fresh_context
from benchmarks.round_trip import round_trips
from benchmarks.rounds import measure

RESULTS: Final = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, slots=True)
class Target:
    """A row: the target as words, the bound, and whether more or less is better."""

    what: str
    words: str
    bound: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Whether ``value`` is on the right side of the bound."""
        return value >= self.bound if self.at_least else value <= self.bound


class Figures:
    """Measures and keeps rows; ``rounds`` of ``duration_s`` each."""

    def __init__(self, rounds: int, duration_s: float) -> None:
        self.rounds = rounds
        self.duration_s = duration_s
        self.table = Table("Targets", ("what", "target", "measured", "met", "from"))
        self.details: list[Table] = []
        #: triggers per second of one sandbox alone
        self.lone_js_per_s = 0.0
        self._runs = 0

    def row(self, what: str, words: str, bound: float, value: float, source: str, *, at_least: bool) -> None:
        """One figure beside its target."""
        target = Target(what, words, bound, at_least)
        unit = words.rsplit(maxsplit=1)[-1]
        self.table.add(what, words, f"{value:.3g} {unit}", target.met(value), source)
        _say(f"  {what}: {value:.3g} (target {words}): {'met' if target.met(value) else 'MISSED'}")

    def load(self, system: System, definition: Definition, **load: Any) -> Run:
        """One verified run."""
        self._runs += 1
        asked = Load(duration_s=self.duration_s, warmup_s=0.5, **load)
        done = uvloop.run(run(system, asked, definition, progress=False, prefix=f"figure-{self._runs}"))
        if done.violations:
            raise RuntimeError(f"violations: {done.violations[:3]}")
        for number in range(asked.panels):
            if system.name == "panels":
                system.http("DELETE", f"/panels/figure-{self._runs}-{number}")
        return done

    def alternate(self, subjects: dict[str, Callable[[], Run]]) -> dict[str, list[Run]]:
        """The runs of each subject, taken in turn."""
        found: dict[str, list[Run]] = {name: [] for name in subjects}
        for _ in range(self.rounds):
            for name, subject in subjects.items():
                found[name].append(subject())
        return found

    def keep(self, title: str, runs: dict[str, list[Run]]) -> None:
        """The details behind rows, as medians."""
        made = Table(
            title,
            ("", "triggers/s", "deliveries/s", "p50 ms", "p99 ms", "server CPU µs", "worker CPU µs"),
        )
        for name, each in runs.items():
            made.add(
                name,
                int(_median(run.per_s for run in each)),
                int(_median(run.deliveries_per_s for run in each)),
                _median(run.latency_ms["p50"] for run in each),
                _median(run.latency_ms["p99"] for run in each),
                _median(run.server_cpu_us for run in each),
                _median(run.worker_cpu_us for run in each),
            )
        self.details.append(made)


def main() -> None:
    """Measures everything and writes the results."""
    options = parser("benchmarks.figures", __doc__).parse_args()
    figures = Figures(rounds=2 if options.quick else 5, duration_s=1.5 if options.quick else 3.0)
    sandboxes(figures, quick=options.quick)
    under_load(figures)
    large_state(figures)
    fan_out(figures)
    two_workers(figures)
    _say("a lone trigger")
    lone = round_trips(rounds=figures.rounds)
    ratio = next(row[-1] for row in lone.rows if row[0] == "WebAssembly")
    figures.row("p50 of a lone trigger, WASM", "≤ 3 ×", 3.0, ratio, "round_trip", at_least=False)
    _say("idle clients")
    idle = idle_clients(1_000 if options.quick else 5_000)
    figures.row("memory per idle client", "≤ 30 KiB", 30.0, idle.rows[0][3], "idle_clients", at_least=False)
    report = Report(command("benchmarks.figures"), [figures.table, *figures.details, lone, idle])
    report.publish(options.json)
    _say("the record")
    scale = record.QUICK if options.quick else record.Scale()
    recorded = Report(command("benchmarks.figures"), record.measured(scale, list(record.PARTS)))
    recorded.publish(None)
    RESULTS.write_text(record.with_part(document(report), [recorded]))
    _say(f"written: {RESULTS.name}")


def sandboxes(figures: Figures, *, quick: bool) -> None:
    """Sandboxes alone, and quickjs-rs."""
    _say("sandboxes alone")
    engines = Engines()
    script, module = engines.javascript(handlers.COUNTER_JS), engines.wasm(handlers.COUNTER_WAT)
    subjects = {
        javascript.REFERENCE: fresh_context(handlers.COUNTER_JS),
        "JavaScript": LoneSandbox(script, handlers.state(0)).checked().run,
        "JavaScript, 10 MB": LoneSandbox(script, handlers.state(10_000_000), panels=1).checked().run,
        "WebAssembly": LoneSandbox(module, handlers.state(0)).checked().run,
        "WebAssembly, 10 MB": LoneSandbox(module, handlers.state(10_000_000), panels=1).checked().run,
    }
    settle()
    costs = measure(subjects, rounds=3 if quick else 9, round_s=0.2 if quick else 0.5)
    made = Table("Sandboxes alone, one trigger", ("", "CPU µs", "per s"))
    for name, cost in costs.items():
        made.add(name, cost.cpu_us, int(cost.per_s))
    figures.details.append(made)
    plain = costs["JavaScript"]
    figures.row(
        "worker CPU of a JS counter", "≤ 150 µs", 150.0, plain.cpu_us, "sandbox alone", at_least=False
    )
    faster = costs[javascript.REFERENCE].wall_us / plain.wall_us
    figures.row(
        "JS counter against quickjs-rs, fresh context", "≥ 5 ×", 5.0, faster, "sandbox alone", at_least=True
    )
    grown = costs["JavaScript, 10 MB"].cpu_us / plain.cpu_us
    figures.row(
        "JS, one key of 10 MB against an empty state", "≤ 1.5 ×", 1.5, grown, "sandbox alone", at_least=False
    )
    figures.lone_js_per_s = plain.per_s


def under_load(figures: Figures) -> None:
    """Sixteen panels with a window of four, and one panel with a window of 32."""
    _say("16 panels, window 4")
    with reference() as bare, panels(Options()) as system:
        runs = figures.alternate(
            {
                "reference": lambda: figures.load(bare, handlers.WASM, panels=16, window=4),
                "WebAssembly": lambda: figures.load(system, handlers.WASM, panels=16, window=4),
                "WebAssembly, one panel, window 32": lambda: figures.load(
                    system, handlers.WASM, panels=1, window=32
                ),
                "JavaScript": lambda: figures.load(system, handlers.JAVASCRIPT, panels=16, window=4),
            }
        )
    figures.keep("Under load, one worker", runs)
    least, wasm, hot, script = runs.values()
    figures.row(
        "triggers/s, WASM counter, 16 panels, window 4", "≥ 0.6 ×", 0.6,
        _ratio(wasm, least, "per_s"), "load", at_least=True,
    )  # fmt: skip
    alone = figures.lone_js_per_s
    figures.row(
        "triggers/s, JS counter, against one sandbox alone", "≥ 0.9 ×", 0.9,
        _median(each.per_s for each in script) / alone, "load", at_least=True,
    )  # fmt: skip
    figures.row(
        "one hot panel, window 32, against 16 panels", "≥ 0.9 ×", 0.9,
        _ratio(hot, wasm, "per_s"), "load", at_least=True,
    )  # fmt: skip
    figures.row(
        "gateway CPU per trigger, against the reference's", "≤ 1.0 ×", 1.0,
        _ratio(wasm, least, "server_cpu_us"), "load", at_least=False,
    )  # fmt: skip
    figures.row(
        "worker CPU per trigger, WASM, under load", "≤ 35 µs", 35.0,
        _median(each.worker_cpu_us for each in wasm), "load", at_least=False,
    )  # fmt: skip


def large_state(figures: Figures) -> None:
    """A state of ten megabytes, one key touched."""
    _say("10 MB of state")
    large = handlers.counter("wat", handlers.COUNTER_WAT, state_bytes=10_000_000)
    with panels(Options(gateway_args=["--max-body-bytes", "16MiB"])) as system:
        runs = figures.alternate(
            {
                "empty state": lambda: figures.load(system, handlers.WASM, panels=1, window=8),
                "10 MB": lambda: figures.load(system, large, panels=1, window=8),
            }
        )
    figures.keep("One panel, window 8, by size of state", runs)
    small, big = runs.values()
    figures.row(
        "trigger on 10 MB, one key touched, against an empty state", "≤ 1.2 ×", 1.2,
        1 / _ratio(big, small, "per_s"), "load", at_least=False,
    )  # fmt: skip


def fan_out(figures: Figures) -> None:
    """One panel, many who listen."""
    for listeners in (200, 1_000):
        _say(f"fan-out to {listeners:,}")
        with reference() as bare, panels(Options()) as system:
            asked = {"panels": 1, "window": 4, "listeners": listeners - 1}
            runs = figures.alternate(
                {
                    "reference": lambda: figures.load(bare, handlers.WASM, **asked),  # noqa: B023
                    "panels": lambda: figures.load(system, handlers.WASM, **asked),  # noqa: B023
                }
            )
        figures.keep(f"Fan-out, 1 panel, {listeners:,} clients", runs)
        least, ours = runs.values()
        figures.row(
            f"fan-out to {listeners:,} clients, deliveries/s", "≥ 3 ×", 3.0,
            _ratio(ours, least, "deliveries_per_s"), "load", at_least=True,
        )  # fmt: skip


def two_workers(figures: Figures) -> None:
    """A handler that needs the CPU, on one worker and on two."""
    _say("one worker and two")
    busy = handlers.counter("wat", handlers.BUSY_WAT)
    with panels(Options(workers=1)) as one, panels(Options(workers=2)) as two:
        runs = figures.alternate(
            {
                "1 worker": lambda: figures.load(one, busy, panels=16, window=4),
                "2 workers": lambda: figures.load(two, busy, panels=16, window=4),
            }
        )
    figures.keep("A CPU-bound handler", runs)
    single, double = runs.values()
    figures.row(
        "2 workers against 1, CPU-bound handler", "≥ 1.8 ×", 1.8,
        _ratio(double, single, "per_s"), "load", at_least=True,
    )  # fmt: skip


def document(report: Report) -> str:
    """``RESULTS.md``."""
    head = [
        "# Results",
        "",
        (
            "What `python -m benchmarks.figures` measured last; nothing here is typed by hand. Ratios are "
            "medians of rounds in which both"
        ),
        "sides took turns. Client, gateway and workers share the machine's cores.",
        "",
        *(f"- {line}" for line in report.head().splitlines()),
        f"- `{report.command}`, {report.date}",
    ]
    body = [
        f"\n## {table.title}\n\n{table.markdown()}\n" + "".join(f"\n{note}\n" for note in table.notes)
        for table in report.tables
    ]
    return "\n".join(head) + "\n" + "".join(body)


def _ratio(subject: list[Run], least: list[Run], field: str) -> float:
    return _median(getattr(a, field) / getattr(b, field) for a, b in zip(subject, least, strict=True))


def _median(values: Any) -> float:
    return float(statistics.median(list(values)))


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
