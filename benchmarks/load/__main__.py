"""Load a gateway, verify every answer, and compare with an application that executes nothing: ``scripts/load_test``.

Panels × clients keep a window of triggers in flight each. Any violation (an answer that is missing, twice or not asked for, a gap
between versions, a final state that is not what was counted) makes it exit with 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import handlers
from benchmarks.handlers import Definition
from benchmarks.load.page import page
from benchmarks.load.run import Load, run
from benchmarks.load.run import Report as Run
from benchmarks.load.system import ROOT, Options, System, panels, reference
from benchmarks.report import Report, Table

TOOLS: dict[str, Definition] = {
    "wasm": handlers.WASM,
    "javascript": handlers.JAVASCRIPT,
    "busy": handlers.counter("wat", handlers.BUSY_WAT),
}


def main() -> None:
    """The command."""
    options = parser().parse_args()
    load = Load(
        panels=options.panels,
        clients=options.clients,
        window=options.window,
        listeners=options.listeners,
        duration_s=options.duration,
    )
    definition = TOOLS[options.tool]
    runs: list[Run] = []
    if options.url:
        system = System(options.url.rstrip("/"), "panels", token=options.token)
        runs.append(_run(system, load, definition))
    else:
        _say(f"panels: a gateway and {options.workers} worker(s)")
        with panels(Options(workers=options.workers)) as system:
            runs.append(_run(system, load, definition))
        if not options.no_reference:
            _say("the reference, which executes nothing")
            with reference() as system:
                runs.append(_run(system, load, definition))
    report = Report("scripts/load_test " + " ".join(sys.argv[1:]), [table(runs)])
    report.publish(None)
    if options.json:
        options.json.write_bytes(
            msgspec.json.format(msgspec.json.encode({"report": report, "runs": runs}), indent=2) + b"\n"
        )
    options.html.parent.mkdir(parents=True, exist_ok=True)
    options.html.write_text(page(report, runs))
    _say(f"report: {options.html}")
    violations = [text for each in runs for text in each.violations]
    for text in violations[:20]:
        _say(f"violation: {text}")
    sys.exit(1 if violations else 0)


def table(runs: list[Run]) -> Table:
    """One row for each run; the last column compares with the last run, which is the reference."""
    made = Table(
        "Under load",
        ("", "triggers/s", "deliveries/s", "p50 ms", "p99 ms", "max ms", "server CPU µs", "worker CPU µs", "violations", "/ reference"),
        notes=["CPU is per trigger. Client, server and workers share the machine's cores."],
    )  # fmt: skip
    for each in runs:
        latency = each.latency_ms
        ratio = each.per_s / runs[-1].per_s if len(runs) > 1 and runs[-1].per_s else None
        made.add(
            each.name,
            int(each.per_s),
            int(each.deliveries_per_s),
            *(latency[name] for name in ("p50", "p99", "max")),
            each.server_cpu_us,
            each.worker_cpu_us,
            len(each.violations),
            ratio,
        )
    return made


def _run(system: System, load: Load, definition: Definition) -> Run:
    prefix = f"load-{load.panels}-{load.clients}-{load.window}"
    return uvloop.run(run(system, load, definition, prefix=prefix))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="scripts/load_test", description=__doc__)
    positive = _bounded(1)
    made.add_argument("--panels", type=positive, default=16, metavar="N", help="panels (default: 16)")
    made.add_argument(
        "--clients", type=positive, default=1, metavar="N", help="triggering clients of each (1)"
    )
    made.add_argument("--listeners", type=_bounded(0), default=0, metavar="N", help="clients of each that only listen (0)")  # fmt: skip
    made.add_argument(
        "--window", type=positive, default=4, metavar="N", help="triggers in flight per client (4)"
    )
    made.add_argument("--duration", type=float, default=5.0, metavar="S", help="seconds, after one to warm up (5)")  # fmt: skip
    made.add_argument("--tool", choices=sorted(TOOLS), default="wasm", help="what handles triggers (wasm)")
    made.add_argument("--workers", type=positive, default=1, metavar="N", help="sandbox processes (1)")
    made.add_argument("--no-reference", action="store_true", help="leave the comparison out")
    made.add_argument("--url", metavar="URL", help="a gateway that runs already, http://HOST:PORT")
    made.add_argument("--token", metavar="JWT", help="for --url: a token that may manage panels")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    made.add_argument("--html", type=Path, default=ROOT / "build" / "load_test.html", metavar="FILE", help="the report (build/load_test.html)")  # fmt: skip
    return made


def _bounded(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
        return value

    return number


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
