"""How long one client waits for one trigger when nobody else is there: panels beside the
application that executes nothing.

Both run at the same time and are asked in turn, a second each, so that a slow moment of the machine meets
both.
"""

from __future__ import annotations

import statistics

import uvloop

from benchmarks import handlers
from benchmarks.handlers import Definition
from benchmarks.load.run import Load, run
from benchmarks.load.run import Report as Run
from benchmarks.load.system import Options, System, panels, reference
from benchmarks.report import Report, Table, command, parser


def main() -> None:
    """Measures and prints."""
    options = parser("benchmarks.round_trip", __doc__).parse_args()
    report = Report(command("benchmarks.round_trip"), [round_trips(rounds=3 if options.quick else 9)])
    report.publish(options.json)


def round_trips(rounds: int) -> Table:
    """Medians over the rounds."""
    made = Table(
        "A lone trigger",
        ("", "p50 ms", "p99 ms", "per s", "server CPU µs", "worker CPU µs", "p50 / reference"),
        notes=[f"Medians of {rounds} rounds of a second."],
    )
    found: dict[str, list[Run]] = {}
    with reference() as bare, panels(Options()) as system:
        subjects: dict[str, tuple[System, Definition]] = {
            "reference": (bare, handlers.WASM),
            "WebAssembly": (system, handlers.WASM),
            "JavaScript": (system, handlers.JAVASCRIPT),
        }
        load = Load(panels=1, window=1, duration_s=1.0, warmup_s=0.3)
        for number in range(rounds):
            for name, (where, definition) in subjects.items():
                prefix = f"{name.lower()}-{number}"
                done = uvloop.run(run(where, load, definition, progress=False, prefix=prefix))
                if done.violations:
                    raise RuntimeError(f"{name}: {done.violations[:3]}")
                found.setdefault(name, []).append(done)
    least = statistics.median(each.latency_ms["p50"] for each in found["reference"])
    for name, runs in found.items():
        p50 = statistics.median(each.latency_ms["p50"] for each in runs)
        made.add(
            name,
            p50,
            statistics.median(each.latency_ms["p99"] for each in runs),
            int(statistics.median(each.per_s for each in runs)),
            statistics.median(each.server_cpu_us for each in runs),
            statistics.median(each.worker_cpu_us for each in runs),
            p50 / least,
        )
    return made


if __name__ == "__main__":
    main()
