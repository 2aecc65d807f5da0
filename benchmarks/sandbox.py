"""What one trigger of the WebAssembly counter costs a sandbox, alone and without sockets, beside bare
wasmtime.

The reference is what wasmtime-py's public API costs for the same module: in a fresh store and instance per
call (isolated, as ours), and in one instance that is kept (not isolated).
"""

from __future__ import annotations

from benchmarks import handlers
from benchmarks.bare_wasmtime import BareWasmtime
from benchmarks.lone_sandbox import Engines, LoneSandbox, exchanging, settle
from benchmarks.report import Report, Table, command, parser
from benchmarks.rounds import Cost, measure

#: Sizes of state, in bytes, of which one key is touched.
STATE_BYTES = (0, 1_000_000, 10_000_000)
REFERENCE = "bare wasmtime-py, fresh store and instance"


def main() -> None:
    """Measures and prints."""
    arguments = parser("benchmarks.sandbox", __doc__)
    options = arguments.parse_args()
    rounds, round_s = (3, 0.1) if options.quick else (7, 0.4)

    engines = Engines()
    program = engines.wasm(handlers.COUNTER_WAT)
    # one panel, so that ten megabytes of state are ten and not 160
    sandboxes = {
        size: LoneSandbox(program, handlers.state(size), panels=1 if size else 16).checked()
        for size in STATE_BYTES
    }
    bare = BareWasmtime(engines.engine, handlers.COUNTER_WAT)
    settle()
    costs = measure(
        {
            REFERENCE: bare.fresh,
            "bare wasmtime-py, one kept instance": bare.kept,
            "sandbox": sandboxes[0].run,
            "sandbox and frames, 1 job in each": exchanging(sandboxes[0], 1),
            "sandbox and frames, 16 jobs in each": exchanging(sandboxes[0], 16),
        }
        | {f"sandbox, state of {size // 1_000_000} MB": sandboxes[size].run for size in STATE_BYTES[1:]},
        rounds=rounds,
        round_s=round_s,
    )
    report = Report(command("benchmarks.sandbox"), [table(costs), sizes(costs)])
    report.publish(options.json)


def table(costs: dict[str, Cost]) -> Table:
    """Every subject beside the reference."""
    made = Table(
        "WebAssembly counter, one trigger",
        ("", "wall µs", "CPU µs", "per s", "speed / reference", "slowest / fastest"),
        notes=[f"The reference is: {REFERENCE}. Frames include encoding the jobs, which a gateway would do."],
    )
    reference = costs[REFERENCE]
    for name, cost in costs.items():
        made.add(
            name, cost.wall_us, cost.cpu_us, int(cost.per_s), reference.wall_us / cost.wall_us, cost.spread
        )
    return made


def sizes(costs: dict[str, Cost]) -> Table:
    """What the size of a state that is not touched costs."""
    made = Table("One key touched of a state of this size", ("", "CPU µs", "CPU / empty state"))
    empty = costs["sandbox"]
    for name in ("sandbox", *(f"sandbox, state of {size // 1_000_000} MB" for size in STATE_BYTES[1:])):
        made.add(name, costs[name].cpu_us, costs[name].cpu_us / empty.cpu_us)
    return made


if __name__ == "__main__":
    main()
