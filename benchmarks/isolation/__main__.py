"""Attack a real system while well-behaved clients use it: ``scripts/isolation_test``.

A gateway and two sandbox processes; neighbours trigger counters at a steady rate on panels of their own,
from a process of their own. Every attack has to come back with what the corpus says, change nothing that it
may not change, and cost no neighbour an answer. Windows without attacks lie between the attacks, so that what
neighbours feel is compared within one run. Anything that gets through makes it exit with 1. The figures
(stopped within a deadline + 20 ms; the neighbours' p99 at most twice its undisturbed value) are reported,
and decide only with ``--strict-figures``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.isolation.attack import Attack
from benchmarks.isolation.captive import outcomes
from benchmarks.isolation.corpus import compromised, corpus
from benchmarks.isolation.neighbours import Observed
from benchmarks.isolation.page import page
from benchmarks.isolation.report import Run
from benchmarks.isolation.runner import Runner, layers, resident
from benchmarks.isolation.verdict import Row
from benchmarks.load.system import ROOT
from benchmarks.report import Report
from tests.integration.guests import counter, script
from tests.support.system import Process, System, eventually

#: The neighbours: panels, and triggers a second of all of them together.
PANELS: Final = 4
PER_S: Final = 160.0
#: How long an attack goes on at least, and how long the windows around it are, in seconds.
WINDOW_S: Final = 1.5
QUIET_S: Final = 1.0
#: Calls of each attack, and snippets, in the short form.
SAMPLE: Final = 2
#: Options of the gateway: all attacks come from one subject and tools fail again and again, which is what is
#: measured, and neighbours go on sending while a job keeps their sandbox busy for seconds. The bounds that
#: would answer in their place have tests of their own.
GATEWAY: Final = ("--breaker-failures", "0", "--compile-seconds", "100000", "--max-in-flight", "4096")
#: How long the neighbours may take to connect and to end, in seconds.
_PATIENCE_S: Final = 60.0
#: The label of the attacked panels' pool where they have one of their own, and how the report says so.
APART: Final = "apart"
_TOGETHER: Final = "Two sandboxes run the attacked panels and the neighbours'."
_APART: Final = "One sandbox runs the attacked panels, by a label of its pool, and another the neighbours'."
_COUNT_JS: Final = (
    "$state.count = ($state.count ?? 0) + 1; $emit('counted', $state.count); return $state.count;"
)


def main() -> None:
    """The command."""
    options = arguments()
    try:
        run = measured(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as exc:
        sys.exit(f"isolation_test: {exc}")
    run.publish()
    if options.json:
        options.json.write_bytes(run.encode())
    options.html.write_text(page(run), encoding="utf-8")
    _say(f"report: {options.html}")
    sys.exit(1 if run.problems or (options.strict_figures and run.misses) else 0)


def measured(options: argparse.Namespace) -> Run:
    """Carries out the corpus, or the families that were asked for."""
    attacks, short = chosen(options), options.short
    load_before = os.getloadavg()[0]
    with System(gateway=GATEWAY) as system:
        system.start(processes=1 if options.apart else 2)
        if options.apart:
            start_pool_apart(system)
        panels = [
            system.make_panel(counter() if at % 2 else script("count", _COUNT_JS), state={"count": 0})
            for at in range(PANELS)
        ]
        for panel in panels:
            with system.connect(panel) as client:
                client.call("count")
        before, started_s = resident(system), time.monotonic()
        with neighbours(system, panels) as process:
            runner = Runner(
                system,
                window_s=0 if short else WINDOW_S,
                quiet_s=0 if short else QUIET_S,
                pool=APART if options.apart else None,
            )
            quiet = [runner.rest(seconds=QUIET_S)]
            rows: list[Row] = []
            for attack in attacks:
                rows.append(runner.run(attack))
                if process.poll() is not None:
                    raise OSError(_gone(process, f"during {attack.family}: {attack.name}"))
                quiet += rows[-1].quiet[-1:]
                _progress(rows[-1], len(rows), len(attacks))
            if not options.only or compromised.FAMILY in options.only:
                rows += snippets(system, short=short)
            quiet.append(runner.rest(seconds=QUIET_S))
            observed = ended(process, report_of(system))
        found = Run(
            rows=rows,
            observed=observed,
            report=Report(" ".join(["scripts/isolation_test", *sys.argv[1:]])),
            started_s=started_s,
            took_s=time.monotonic() - started_s,
            layers=layers(system),
            arrangement=_APART if options.apart else _TOGETHER,
            memory={name: (size, resident(system).get(name, 0)) for name, size in before.items()},
            load=(load_before, os.getloadavg()[0]),
            problems=[f"{row.name}: {text}" for row in rows for text in row.all_problems],
        )
        found.problems += observed.violations + runner.aftermath()
        counted = sum(int(system.state(panel)["count"]) for panel in panels)
        if counted != observed.sent + len(panels):
            found.problems.append(f"neighbours: expected {observed.sent + len(panels)} counts, got {counted}")
    found.compare(tuple(quiet))
    return found


def start_pool_apart(system: System) -> None:
    """A pool with one sandbox, for the panels that name its label and for no others."""
    arguments = ["panels_worker", "--gateway", system.endpoint, "--cache-dir", str(system.cache_dir)]
    arguments += ["--processes", "1", "--labels", APART]
    system.pools.append(Process.start(f"pool-{APART}", system.folder, arguments))
    eventually(lambda: "ready; " in system.pool.text, what="the pool of the attacked panels")


def chosen(options: argparse.Namespace) -> list[Attack]:
    """The attacks of this run."""
    wanted = [attack for attack in corpus() if not options.only or attack.family in options.only]
    return [attack.sampled(SAMPLE) for attack in wanted] if options.short else wanted


def snippets(system: System, *, short: bool) -> list[Row]:
    """The rows of what a sandbox tries that was taken over."""
    began_s = time.monotonic()
    rows = compromised.rows(outcomes(system, compromised.chosen(SAMPLE if short else None)))
    for number, row in enumerate(rows, 1):
        row.window = (began_s, time.monotonic())
        _progress(row, number, len(rows))
    return rows


# -- the neighbours' process -------------------------------------------------------------------------


@contextlib.contextmanager
def neighbours(system: System, panels: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The neighbours, once they are all connected. They are killed where they were not ``ended``."""
    url = system.url.replace("http", "ws", 1)
    (report := report_of(system)).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "benchmarks.isolation.neighbours",
        url,
        system.token(),
        str(PER_S),
        str(report),
        *panels,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise OSError("the neighbours could not connect")
        yield process
    finally:
        process.kill()
        process.wait()


def report_of(system: System) -> Path:
    """Where the neighbours write what they saw: a report is more than a pipe holds."""
    return system.folder / "neighbours.json"


def ended(process: subprocess.Popen[bytes], report: Path) -> Observed:
    """Tells the neighbours to end; what they saw."""
    try:
        process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        raise OSError(f"the neighbours did not end within {_PATIENCE_S:g} s of being told to") from None
    try:
        return msgspec.json.decode(report.read_bytes(), type=Observed)
    except (OSError, msgspec.DecodeError):
        raise OSError(_gone(process, "and left no report")) from None


def _gone(process: subprocess.Popen[bytes], when: str) -> str:
    """What to say of neighbours whose process is gone: without them nothing shows whom an attack harms."""
    return f"the neighbours' process ended with {process.wait()} {when}; expected it to watch until the end"


# -- the command line --------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """The command line; exits with 2 and a sentence where it makes no sense."""
    made = parser()
    options = made.parse_args()
    for name in ("json", "html"):
        path = getattr(options, name)
        if path is None:
            continue
        if path.is_dir():
            made.error(f"--{name}: expected a file, got the folder {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            made.error(f"--{name}: {exc}")
    return options


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="scripts/isolation_test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    families = sorted({attack.family for attack in corpus()} | {compromised.FAMILY})
    add("--short", action="store_true", help="some handlers of each attack, once; figures say little")
    add("--only", action="append", choices=families, metavar="FAMILY", help=f"one of {', '.join(families)}")
    add("--apart", action="store_true", help="give the attacked panels a pool of their own, by a label")
    add("--strict-figures", action="store_true", help="exit with 1 where a figure is missed, too")
    add("--json", type=Path, metavar="FILE", help="write everything measured there")
    html = ROOT / "build" / "isolation_test.html"
    add("--html", type=Path, default=html, metavar="FILE", help="the report (build/isolation_test.html)")
    return made


def _progress(row: Row, number: int, of: int) -> None:
    verdict = "FAILED" if row.all_problems else "held"
    _say(f"{number:3}/{of} {verdict:6} {row.family}: {row.name} ({row.calls}; {row.stopped_by})")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
