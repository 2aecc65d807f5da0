"""Load a gateway, verify every answer, and compare with an application that executes
nothing: ``scripts/load_test``.

Panels × clients keep a window of triggers in flight each. Any violation (an answer that is missing, twice or
not asked for, a gap between versions, a final state that is not what was counted) makes it exit with 1.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from benchmarks import handlers
from benchmarks.handlers import Definition
from benchmarks.load.page import page
from benchmarks.load.run import Load, delete, run
from benchmarks.load.run import Report as Run
from benchmarks.load.system import ROOT, Options, System, panels, reference
from benchmarks.report import Report, Table

#: Tools by name and language. All count; ``busy`` first turns a loop for some milliseconds.
TOOLS: Final[dict[str, dict[str, Definition]]] = {
    "increment": {"wat": handlers.WASM, "javascript": handlers.JAVASCRIPT},
    "busy": {
        "wat": handlers.counter("wat", handlers.BUSY_WAT),
        "javascript": handlers.counter(
            "javascript", "for (let turn = 0; turn < 100_000; turn++);\n" + handlers.COUNTER_JS
        ),
    },
}
#: Threads, file descriptors and patience end somewhere about there.
_MOST_CLIENTS: Final = 10_000


def main() -> None:
    """The command."""
    options = arguments()
    try:
        runs = measured(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, RuntimeError) as exc:
        sys.exit(f"load_test: {exc}")
    report = Report(" ".join(["scripts/load_test", *_shown_arguments()]), [speed(runs), cost(runs)])
    if not options.url:
        report.tables[0].notes.append(f"The gateway's durability is {options.durability}.")
    report.publish(None)
    if options.json:
        options.json.write_bytes(
            msgspec.json.format(msgspec.json.encode({"report": report, "runs": runs}), indent=2) + b"\n"
        )
    options.html.write_text(page(report, runs), encoding="utf-8")
    _say(f"report: {options.html}")
    violations = [f"{each.name}: {text}" for each in runs for text in each.violations]
    for text in violations[:20]:
        _say(f"violation: {text}")
    sys.exit(1 if violations else 0)


def measured(options: argparse.Namespace) -> list[Run]:
    """The run against panels, and the one against the reference, unless it is not wanted."""
    load = Load(
        panels=options.panels,
        clients=options.clients,
        window=options.window,
        listeners=options.listeners,
        duration_s=options.duration,
    )
    definition = TOOLS[options.tool][options.language]
    runs: list[Run] = []
    if options.url:
        _say(f"panels: {options.url}")
        runs.append(_run(System(options.url, "panels", token=options.token), load, definition, clean=True))
    else:
        _say(f"panels: a gateway and {options.workers} sandbox process(es)")
        _say(f"durability: {options.durability}")
        with panels(Options(workers=options.workers, durability=options.durability)) as system:
            runs.append(_run(system, load, definition))
    if not options.no_reference:
        _say("reference: the same server, which executes nothing")
        with reference() as system:
            runs.append(_run(system, load, definition))
    return runs


def _run(system: System, load: Load, definition: Definition, *, clean: bool = False) -> Run:
    prefix = f"load-{os.getpid()}-{time.time_ns() % 1_000_000_000}"

    async def whole() -> Run:
        try:
            return await run(system, load, definition, prefix=prefix)
        finally:
            if clean:
                await delete(system, load, prefix)

    return uvloop.run(whole())


def speed(runs: list[Run]) -> Table:
    """One row for each run; the last column compares with the last run, which is the reference."""
    made = Table(
        "Under load",
        (
            "",
            "triggers/s",
            "deliveries/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "violations",
            "× reference",
        ),
        notes=["A delivery is a PATCH, an EVENT or a RESULT that a client got."],
    )
    for each in runs:
        made.add(
            each.name,
            int(each.per_s),
            int(each.deliveries_per_s),
            *(each.latency_ms[name] for name in ("p50", "p90", "p99", "max")),
            len(each.violations),
            each.per_s / runs[-1].per_s if len(runs) > 1 and runs[-1].per_s else None,
        )
    return made


def cost(runs: list[Run]) -> Table:
    """CPU per trigger and memory; a dash where the process is not ours to look at."""
    made = Table(
        "What it costs",
        ("", "server µs", "sandboxes µs", "clients µs", "clients' cores", "server MiB", "workers MiB"),
        notes=[
            "CPU is per trigger. Clients, server and sandboxes share the machine's cores.",
            "Memory is resident; what processes share counts in each of them.",
        ],
    )
    for each in runs:
        made.add(
            each.name,
            each.server_cpu_us or None,
            each.worker_cpu_us or None,
            each.client_cpu_us,
            each.client_busy,
            each.server_rss_bytes // 2**20 or None,
            each.worker_rss_bytes // 2**20 or None,
        )
    return made


def arguments() -> argparse.Namespace:
    """The command line; exits with 2 and a sentence where it makes no sense."""
    made = parser()
    options = made.parse_args()
    if options.fan_out is not None:
        if any(value is not None for value in (options.panels, options.clients, options.listeners)):
            made.error("--fan-out: expected neither --panels, --clients nor --listeners beside it")
        options.panels, options.clients, options.listeners = 1, 1, options.fan_out - 1
    options.panels = options.panels or 16
    options.clients = options.clients or 1
    options.listeners = options.listeners or 0
    clients = options.panels * (options.clients + options.listeners)
    if clients > _MOST_CLIENTS:
        made.error(f"expected at most {_MOST_CLIENTS:,} clients in all, got {clients:,}")
    if options.token and not options.url:
        made.error("--token: expected --url beside it")
    if options.url and options.workers is not None:
        made.error("--workers: expected no --url beside it")
    if options.url and options.durability is not None:
        made.error("--durability: expected no --url beside it")
    if options.url:
        options.url = options.url.rstrip("/")
        found = urllib.parse.urlsplit(options.url)
        if found.scheme != "http" or not found.hostname or found.path:
            made.error(f"--url: expected http://HOST:PORT, got {options.url}")
    options.workers = options.workers or 1
    options.durability = options.durability or "process"
    for name in ("json", "html"):
        path = getattr(options, name)
        if path is not None and path.is_dir():
            made.error(f"--{name}: expected a file, got the folder {path}")
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                made.error(f"--{name}: {exc}")
    return options


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="scripts/load_test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some, any_number = _whole(1), _whole(0)
    add = made.add_argument
    add("--panels", type=some, metavar="N", help="panels (16)")
    add("--clients", type=some, metavar="N", help="triggering clients of each (1)")
    add("--listeners", type=any_number, metavar="N", help="clients of each that only listen (0)")
    add("--fan-out", type=some, metavar="N", help="one panel, N clients, one of which triggers")
    add("--window", type=some, default=4, metavar="N", help="triggers in flight per client (4)")
    add("--duration", type=_seconds, default=5.0, metavar="S", help="seconds, after one to warm up (5)")
    add("--tool", choices=sorted(TOOLS), default="increment", help="what handles triggers (increment)")
    add("--language", choices=("wat", "javascript"), default="wat", help="what it is written in (wat)")
    add("--workers", type=some, metavar="N", help="sandbox processes (1)")
    add("--durability", choices=("process", "power", "none"), help="how the gateway keeps commits (process)")
    add("--no-reference", action="store_true", help="leave the comparison out")
    add(
        "--url",
        metavar="URL",
        help="a gateway that runs already, http://HOST:PORT; its new panels are deleted",
    )
    add("--token", metavar="JWT", help="for --url: a token that may manage, read and trigger panels load-*")
    add("--json", type=Path, metavar="FILE", help="write everything measured there")
    html = ROOT / "build" / "load_test.html"
    add("--html", type=Path, default=html, metavar="FILE", help="the report (build/load_test.html)")
    return made


def _whole(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
        return value

    return number


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 3600 seconds, got {text!r}")
    return value


def _shown_arguments() -> list[str]:
    """What was given, but for the token: reports are passed on."""
    shown: list[str] = []
    for text in sys.argv[1:]:
        secret = text.startswith("--token=") or (shown and shown[-1] == "--token")
        shown.append("--token=…" if text.startswith("--token=") else "…" if secret else text)
    return shown


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
