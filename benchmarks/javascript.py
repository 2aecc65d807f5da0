"""What one trigger of the JavaScript counter costs: in a sandbox alone, and through the whole system.

Beside it the same handler as WebAssembly, and rivals that run the same script in a fresh QuickJS context per
call: ``quickjs-rs`` in Python (the reference), ``quickjs-emscripten`` in Node, whose start is not counted. A
context of theirs shares its engine with the others; ours is a pristine instance of the whole engine, with
fuel, a deadline and bounds on memory and output.
"""

from __future__ import annotations

import uvloop

from benchmarks import handlers
from benchmarks.handlers import Definition
from benchmarks.load.run import Load, run
from benchmarks.load.system import Options, panels
from benchmarks.lone_sandbox import Engines, LoneSandbox, exchanging, settle
from benchmarks.report import Report, Table, command, parser
from benchmarks.rival_quickjs import EMSCRIPTEN_VERSION, Emscripten, emscripten, fresh_context
from benchmarks.rounds import Cost, Subject, measure

REFERENCE = "quickjs-rs, fresh context"
ALONE = "sandbox, JavaScript"
TEN_MB = "sandbox, JavaScript, state of 10 MB"


def main() -> None:
    """Measures and prints."""
    arguments = parser("benchmarks.javascript", __doc__)
    arguments.add_argument("--alone", action="store_true", help="leave the whole system out")
    options = arguments.parse_args()
    with emscripten(handlers.COUNTER_JS) as node:
        costs = alone(node, quick=options.quick)
    report = Report(command("benchmarks.javascript"), [table(costs)])
    if node is not None:
        report.versions["quickjs-emscripten"] = EMSCRIPTEN_VERSION
    if not options.alone:
        report.tables.append(through_the_system(costs[ALONE], duration_s=2.0 if options.quick else 5.0))
    report.publish(options.json)


def alone(node: Emscripten | None, *, quick: bool) -> dict[str, Cost]:
    """Costs by name, of sandboxes in this process and of rivals."""
    engines = Engines()
    script = engines.javascript(handlers.COUNTER_JS)
    counter = LoneSandbox(script, handlers.state(0)).checked()
    large = LoneSandbox(script, handlers.state(10_000_000), panels=1).checked()
    module = LoneSandbox(engines.wasm(handlers.COUNTER_WAT), handlers.state(0)).checked()
    subjects: dict[str, Subject] = {
        REFERENCE: fresh_context(handlers.COUNTER_JS),
        ALONE: counter.run,
        "sandbox, JavaScript, and frames of 16 jobs": exchanging(counter, 16),
        TEN_MB: large.run,
        "sandbox, WebAssembly": module.run,
    }
    clocks = {}
    if node is not None:
        for mode in ("context", "runtime"):
            name = f"quickjs-emscripten, fresh {mode}"
            subjects[name] = node.subject(mode)
            clocks[name] = node.cpu_s
    settle()
    return measure(subjects, rounds=3 if quick else 7, round_s=0.15 if quick else 0.5, cpu_clocks=clocks)


def table(costs: dict[str, Cost]) -> Table:
    """Every subject beside the reference, and JavaScript beside itself on an empty state."""
    made = Table(
        "JavaScript counter, one trigger, no sockets",
        (
            "",
            "wall µs",
            "CPU µs",
            "per s",
            "speed / reference",
            "CPU / JavaScript alone",
            "slowest / fastest",
        ),
        notes=[f"The reference is: {REFERENCE}.", "CPU of Node is that of all its threads."],
    )
    for name, cost in costs.items():
        speed, cpu = costs[REFERENCE].wall_us / cost.wall_us, cost.cpu_us / costs[ALONE].cpu_us
        made.add(name, cost.wall_us, cost.cpu_us, int(cost.per_s), speed, cpu, cost.spread)
    return made


def through_the_system(lone: Cost, *, duration_s: float) -> Table:
    """The counter with 16 panels and a window of 4 through gateway and one worker."""
    made = Table(
        "Through the whole system: 16 panels, window 4, one worker",
        ("", "triggers/s", "p50 ms", "gateway CPU µs", "worker CPU µs", "triggers/s / JavaScript alone"),
        notes=["Client, gateway and worker share the machine's cores."],
    )
    subjects: dict[str, Definition] = {"JavaScript": handlers.JAVASCRIPT, "WebAssembly": handlers.WASM}
    with panels(Options()) as system:
        for name, definition in subjects.items():
            load = Load(panels=16, clients=1, window=4, duration_s=duration_s)
            report = uvloop.run(run(system, load, definition, progress=False, prefix=name.lower()))
            if report.violations:
                raise RuntimeError(f"{name}: {report.violations[:3]}")
            made.add(
                name,
                int(report.per_s),
                report.latency_ms["p50"],
                report.server_cpu_us,
                report.worker_cpu_us,
                report.per_s / lone.per_s,
            )
    return made


if __name__ == "__main__":
    main()
