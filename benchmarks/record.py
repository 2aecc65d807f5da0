"""What the record costs and what it gives: durability ``process`` and ``power`` beside ``none``, start-up,
resume, disk use.

    python -m benchmarks.record [--quick] [--only NAME ...] [--rounds 21] [--soak-s 600] [--commits 1000000]
    [--many 1000000] [--clients 5000]

Each part is named in ``PARTS`` and can be run alone. Gateways that are compared run at the same time and are
asked in turn, and CPU is that of every thread of the gateway and of the folding process, which folds up to
some seconds later: its CPU is divided by all triggers of the run and not by those of one round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import uvloop

from benchmarks import appends, handlers
from benchmarks.load.run import Load, percentile, run
from benchmarks.load.run import Report as Run
from benchmarks.load.system import ROOT, Options, System, panels
from benchmarks.reconnect import herd, resume
from benchmarks.report import Report, Table, command, parser
from benchmarks.stored import store

#: What, its target as words, the bound, and whether more is better; None where there is no target.
Bound = tuple[str, float, bool]
MIB: Final = 2**20
RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_HEADING: Final = "# The record\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is done. ``clients`` is how many come back at once, ``looks`` how often disk use is read."""

    rounds: int = 21
    round_s: float = 0.8
    soak_s: float = 120.0
    commits: int = 1_000_000
    looks: int = 20
    few: int = 10_000
    many: int = 1_000_000
    missed: int = 1_000
    clients: int = 5_000


#: Just enough to see that everything works.
QUICK: Final = Scale(
    rounds=1, round_s=0.3, soak_s=1.0, commits=2_000, looks=2, few=200, many=1_000, missed=100, clients=40
)


class Measurements:
    """Rows beside their targets, and the details behind them."""

    def __init__(self) -> None:
        self.table = Table("The record", ("what", "target", "measured", "met"))
        self.details: list[Table] = []

    def row(self, what: str, value: float, unit: str, bound: Bound | None = None) -> None:
        """One figure. ``bound`` is its target: as words, as a number, and whether more is better."""
        met = None if bound is None else (value >= bound[1] if bound[2] else value <= bound[1])
        shown = f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
        self.table.add(what, None if bound is None else bound[0], shown, met)
        sys.stderr.write(f"  {what}: {shown}{'' if bound is None else f' (target {bound[0]})'}\n")


def main() -> None:
    """Measures what was asked for and prints it."""
    options = arguments()
    scale = scale_of(options)
    report = Report(command("benchmarks.record"), measured(scale, options.only or list(PARTS)))
    report.publish(options.json)
    if options.results:
        RESULTS.write_text(with_part(RESULTS.read_text(), [report]))


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser("benchmarks.record", __doc__)
    add = made.add_argument
    add("--only", nargs="+", choices=sorted(PARTS), metavar="NAME", help=f"of {', '.join(PARTS)} (all)")
    add("--results", action="store_true", help="replace the record's part of RESULTS.md")
    add("--rounds", type=int, metavar="N", help="rounds of what is measured in turn (21)")
    add("--soak-s", type=float, metavar="S", help="how long the soak for pauses takes (120)")
    add("--commits", type=int, metavar="N", help="commits for the use of the disk (1000000)")
    add("--many", type=int, metavar="N", help="panels of 1 kB to start with (1000000)")
    add("--clients", type=int, metavar="N", help="clients that come back at once (5000)")
    return made.parse_args()


def scale_of(options: argparse.Namespace) -> Scale:
    """How much the arguments ask for."""
    scale = QUICK if options.quick else Scale()
    given = {
        name: value
        for name in ("rounds", "soak_s", "commits", "many", "clients")
        if (value := getattr(options, name)) is not None
    }
    return Scale(**({name: getattr(scale, name) for name in Scale.__dataclass_fields__} | given))


def measured(scale: Scale, names: list[str]) -> list[Table]:
    """The tables of the named parts."""
    made = Measurements()
    for name in names:
        sys.stderr.write(f"{name}\n")
        PARTS[name](made, scale)
    return [made.table, *made.details]


def with_part(results: str, reports: Sequence[Report]) -> str:
    """``results`` with what ``reports`` found as its last part, in the place of what was there of the
    record.
    """
    lines = [results.partition(_HEADING)[0].rstrip("\n"), "", _HEADING]
    lines += [
        "What `python -m benchmarks.record` measured last, each gateway on a data directory of its own.",
        "",
    ]
    for report in reports:
        lines += [
            *(f"- {line}" for line in report.head().splitlines()),
            f"- `{report.command}`, {report.date}",
            "",
        ]
        for table in report.tables:
            lines += [f"## {table.title}", "", table.markdown(), ""]
            if table.notes:
                lines += [" ".join(table.notes), ""]
    return "\n".join(lines)


# -- triggers ----------------------------------------------------------------------------------------


class Subject:
    """A gateway with workers, and its runs."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.runs: list[Run] = []
        self.triggers = 0

    def run(self, load: Load) -> Run:
        """One verified run."""
        prefix = f"record-{len(self.runs)}-{self.triggers}"
        done = uvloop.run(run(self.system, load, handlers.WASM, progress=False, prefix=prefix))
        if done.violations:
            raise RuntimeError(f"{self.system.durability}: {done.violations[:3]}")
        self.runs.append(done)
        self.triggers += done.succeeded
        for number in range(load.panels):
            self.system.http("DELETE", f"/panels/{prefix}-{number}")
        return done

    def median(self, field: str) -> float:
        """The median of all runs."""
        return float(statistics.median(getattr(each, field) for each in self.runs))


def folding_cpu_s(system: System) -> float:
    """CPU seconds of the gateway's folding process."""
    assert system.server is not None
    return float(sum(sum(child.cpu_times()[:2]) for child in system.server.children(recursive=True)))


def until_folded(system: System) -> None:
    """Waits until nothing is left to be folded."""
    deadline = time.monotonic() + 60
    while metric(system, "panels_journal_lag_batches") and time.monotonic() < deadline:
        time.sleep(0.2)


def metric(system: System, name: str) -> float:
    """The value of a metric without labels."""
    for line in system.text("/metrics").splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise RuntimeError(f"expected a metric {name}, got none")


def _ratios(subject: Subject, least: Subject, value: Callable[[Run], float]) -> float:
    return statistics.median(value(a) / value(b) for a, b in zip(subject.runs, least.runs, strict=True))


@contextlib.contextmanager
def _beside(*durabilities: str) -> Iterator[dict[str, Subject]]:
    with contextlib.ExitStack() as stack:
        yield {each: Subject(stack.enter_context(panels(Options(durability=each)))) for each in durabilities}


def triggers(made: Measurements, scale: Scale) -> None:
    """``process`` beside ``none``: throughput and CPU."""
    load = Load(panels=16, window=4, duration_s=scale.round_s, warmup_s=0.3)
    with _beside("none", "process") as subjects:
        none, process = subjects.values()
        none.run(load)
        process.run(load)
        until_folded(process.system)
        for subject in subjects.values():
            subject.runs.clear()
            subject.triggers = 0
        folding = folding_cpu_s(process.system)
        for number in range(scale.rounds):
            for subject in (none, process) if number % 2 else (process, none):
                subject.run(load)
        until_folded(process.system)
        folding_us = (folding_cpu_s(process.system) - folding) / process.triggers * 1e6
    added = statistics.median(
        a.server_cpu_us - b.server_cpu_us for a, b in zip(process.runs, none.runs, strict=True)
    )
    made.row(
        "triggers/s, 16 panels, window 4, process against none",
        _ratios(process, none, lambda each: each.per_s),
        "×",
        ("≥ 0.9 ×", 0.9, True),
    )
    made.row("CPU that the journal adds to a trigger", added + folding_us, "µs", ("≤ 6 µs", 6.0, False))
    table = Table(
        "Under load, one worker, by durability",
        ("", "triggers/s", "p50 ms", "p99 ms", "gateway CPU µs", "folding CPU µs"),
        notes=[f"Medians of {scale.rounds} rounds in turn. Folding is divided by all triggers of the run."],
    )
    for name, subject in subjects.items():
        table.add(
            name,
            int(subject.median("per_s")),
            statistics.median(each.latency_ms["p50"] for each in subject.runs),
            statistics.median(each.latency_ms["p99"] for each in subject.runs),
            subject.median("server_cpu_us"),
            folding_us if name == "process" else None,
        )
    made.details.append(table)


def lone(made: Measurements, scale: Scale) -> None:
    """``process`` beside ``none``: a trigger when nobody else is there."""
    load = Load(panels=1, window=1, duration_s=scale.round_s / 2, warmup_s=0.3)
    with _beside("none", "process") as subjects:
        none, process = subjects.values()
        for number in range(scale.rounds):
            for subject in (none, process) if number % 2 else (process, none):
                subject.run(load)
    ratio = _ratios(process, none, lambda each: each.latency_ms["p50"])
    made.row("p50 of a lone trigger, process against none", ratio, "×", ("≤ 1.2 ×", 1.2, False))


def hot(made: Measurements, scale: Scale) -> None:
    """One panel with many triggers in flight."""
    with panels(Options(durability="process")) as system:
        subject = Subject(system)
        for _ in range(scale.rounds):
            subject.run(Load(panels=1, window=32, duration_s=scale.round_s, warmup_s=0.3))
    bound = ("≥ 5,000 /s", 5_000.0, True)
    made.row("one hot panel, window 32, process", subject.median("per_s"), "commits/s", bound)


def power(made: Measurements, scale: Scale) -> None:
    """How many triggers share an fdatasync, and how many the disk does by itself."""
    with panels(Options(durability="power")) as system:
        subject = Subject(system)
        subject.run(Load(panels=16, window=4, duration_s=0.3, warmup_s=0.3))
        syncs, subject.triggers = metric(system, "panels_journal_syncs_total"), 0
        subject.runs.clear()
        for _ in range(scale.rounds):
            subject.run(Load(panels=16, window=4, duration_s=scale.round_s, warmup_s=0.0))
        syncs = metric(system, "panels_journal_syncs_total") - syncs
    bound = ("≥ 20", 20.0, True)
    made.row("power, 64 in flight: triggers per fdatasync", subject.triggers / syncs, "", bound)
    made.row("power, 64 in flight", subject.median("per_s"), "triggers/s")
    made.row("the disk alone: appends of 4 KiB, each with an fdatasync", disk_syncs(scale.round_s), "/s")


def disk_syncs(duration_s: float) -> float:
    """How many appends the disk takes in a second, each of them synced."""
    with tempfile.TemporaryFile(dir=tempfile.gettempdir()) as file:
        data, count, began = b"x" * 4_096, 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < duration_s or not count:
            os.write(file.fileno(), data)
            os.fdatasync(file.fileno())
            count += 1
    return count / elapsed


# -- pauses, and the disk ----------------------------------------------------------------------------


def pauses(made: Measurements, scale: Scale) -> None:
    """The longest that the gateway's loop does not answer a PING at full speed, beside the same without a
    journal.
    """
    net: dict[str, float] = {}
    gross: dict[str, float] = {}
    table = Table(
        "PING to PONG while 16 panels are at full speed, ms",
        ("", "triggers/s", "p50", "p99.9", "max", "max, without waits for a CPU"),
        notes=[
            f"A process of its own sends a PING every 2 ms over its own socket for {scale.soak_s:.0f} s. What it waits for is the loop and",
            "the CPU; the kernel says how long the loop's thread and the prober were ready and did not get one.",
        ],
    )
    for durability in ("none", "process"):
        with panels(Options(durability=durability)) as system:
            assert system.server is not None
            system.http("POST", "/panels", handlers.WASM("ping"))
            probe = [sys.executable, "-m", "benchmarks.prober", system.websocket_url("ping")]
            probe += [str(scale.soak_s), str(system.server.pid)]
            with subprocess.Popen(probe, stdout=subprocess.PIPE, cwd=ROOT) as prober:
                done = Subject(system).run(Load(panels=16, window=4, duration_s=scale.soak_s, warmup_s=0.5))
                out = prober.communicate()[0].splitlines()
        times = sorted(float(line.split()[0]) for line in out)
        net[durability], gross[durability] = max(float(line.split()[1]) for line in out), times[-1]
        table.add(
            durability,
            int(done.per_s),
            percentile(times, 0.5),
            percentile(times, 0.999),
            times[-1],
            net[durability],
        )
    bound = ("≤ 20 ms", 20.0, False)
    made.row(
        "longest pause of the loop at full speed, process, without waits for a CPU",
        net["process"],
        "ms",
        bound,
    )
    made.row("the same, none", net["none"], "ms")
    made.row("longest pause with waits for a CPU, process", gross["process"], "ms", bound)
    made.row("the same, none", gross["none"], "ms")
    made.details.append(table)


def append(made: Measurements, scale: Scale) -> None:
    """The longest single append, with segments that end and are folded beside it."""
    with tempfile.TemporaryDirectory(prefix="panels-record-") as folder:
        found = asyncio.run(appends.measure(Path(folder), scale.soak_s))
    bound = ("≤ 20 ms", 20.0, False)
    made.row("longest append to the log, without waits for a CPU", max(found.net_ms), "ms", bound)
    made.row("longest append with them", max(found.gross_ms), "ms")
    made.row("commits appended meanwhile", found.commits / scale.soak_s, "/s")


def disk(made: Measurements, scale: Scale) -> None:
    """What the data directory takes while ten panels go on and on."""
    table = Table("Disk use, 10 panels, the newest 10,000 commits of each kept", ("commits", "MiB"))
    sizes: list[float] = []
    with panels(Options(durability="process", gateway_args=["--history-commits", "10000"])) as system:
        assert system.data_dir is not None
        subject, step = Subject(system), scale.commits // scale.looks
        for number in range(10):
            system.http("POST", "/panels", handlers.WASM(f"disk-{number}"))
        while subject.triggers < scale.commits:
            subject.triggers += asyncio.run(_commit(system, 10, step))
            until_folded(system)
            sizes.append(used_bytes(system.data_dir) / MIB)
            table.add(f"{subject.triggers:,}", sizes[-1])
    made.details.append(table)
    half = len(sizes) // 2
    growth = max(sizes[half:]) / max(sizes[:half])
    made.row("disk use, second half of the commits against the first", growth, "×", ("≤ 1.1 ×", 1.1, False))


async def _commit(system: System, count: int, commits: int) -> int:
    from benchmarks.reconnect import Caller

    callers = [await Caller.connect(system.websocket_url(f"disk-{number}")) for number in range(count)]
    await asyncio.gather(*(caller.trigger(commits // count, window=16) for caller in callers))
    for caller in callers:
        caller.leave()
    return commits // count * count


def used_bytes(folder: Path) -> int:
    """Bytes of blocks of all files in ``folder``."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


# -- start and resume --------------------------------------------------------------------------------


def start(made: Measurements, scale: Scale) -> None:
    """From the gateway's start to the first RESULT of a panel that it finds."""
    _start(made, scale.few, 10_000, ("≤ 1.5 s", 1.5, False), None, rounds=min(5, scale.rounds))


def start_many(made: Measurements, scale: Scale) -> None:
    """The same with many panels, and the gateway's memory."""
    bounds = ("≤ 5 s", 5.0, False), ("≤ 300 MB", 300.0, False)
    _start(made, scale.many, 1_000, *bounds, rounds=min(3, scale.rounds))


def _start(
    made: Measurements, count: int, state_bytes: int, bound: Bound, memory: Bound | None, *, rounds: int
) -> None:
    took: list[float] = []
    memory_mb: list[float] = []
    cpu_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="panels-record-") as folder:
        store(Path(folder), count, state_bytes)
        with panels(Options(durability="process", data_dir=Path(folder))) as system:
            _first_result(system, "panel-1")
            server = system.server
            assert server is not None
            again = server.cmdline()
            for number in range(rounds):
                # the workers stay, as they do when a gateway is restarted
                server.terminate()
                server.wait(30)
                began = time.perf_counter()
                started = subprocess.Popen(
                    again, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
                )
                server = psutil.Process(started.pid)
                _first_result(system, f"panel-{count // (number + 2)}")
                took.append(time.perf_counter() - began)
                cpu_s.append(sum(server.cpu_times()[:2]) + sum(server.cpu_times()[2:4]))
                memory_mb.append(server.memory_info().rss / 1e6)
                if number == rounds - 1:
                    server.terminate()
                    started.wait(30)
    what = f"{count:,} panels of {state_bytes // 1_000} kB"
    made.row(f"start with {what} to the first RESULT", statistics.median(took), "s", bound)
    made.row(f"CPU of the gateway until then, {what}", statistics.median(cpu_s), "s")
    made.row(f"memory of the gateway then, {what}", max(memory_mb), "MB", memory)


def _first_result(system: System, panel_id: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = system.http("POST", f"/panels/{panel_id}/trigger/increment", {})
            break
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if answer["type"] != "RESULT":
        raise RuntimeError(f"expected a RESULT, got {answer}")


def resumption(made: Measurements, scale: Scale) -> None:
    """A client that has missed a thousand commits, from its upgrade to the last of them."""
    with panels(Options(durability="process")) as system:
        system.http("POST", "/panels", handlers.WASM("resume"))
        fresh, folded = uvloop.run(resume(system, "resume", scale.missed, lambda: until_folded(system)))
    bound = ("≤ 50 ms", 50.0, False)
    made.row(f"resume of {scale.missed:,} missed commits, not folded yet", fresh, "ms", bound)
    made.row(f"resume of {scale.missed:,} missed commits, folded", folded, "ms", bound)


def reconnection(made: Measurements, scale: Scale) -> None:
    """Everybody comes back at once and resumes, while somebody else goes on."""
    room = str(scale.clients + 100)
    limits = ["--max-connections", room, "--max-connections-per-subject", room]
    with panels(Options(durability="process", gateway_args=limits)) as system:
        for panel_id in ("herd", "other"):
            system.http("POST", "/panels", handlers.WASM(panel_id))
        found = uvloop.run(herd(system, scale.clients))
    who = f"{scale.clients:,} clients come back at once and resume 10 commits"
    made.row(f"{who}: p50", percentile(found.resumed_ms, 0.5), "ms")
    made.row(f"{who}: p99", percentile(found.resumed_ms, 0.99), "ms")
    made.row("a trigger of somebody else meanwhile: p99", percentile(found.other_ms, 0.99), "ms")
    made.row("a trigger of somebody else before: p99", percentile(found.quiet_ms, 0.99), "ms")


PARTS: Final[dict[str, Callable[[Measurements, Scale], None]]] = {
    "triggers": triggers,
    "lone": lone,
    "hot": hot,
    "power": power,
    "pauses": pauses,
    "append": append,
    "disk": disk,
    "start": start,
    "start-many": start_many,
    "resume": resumption,
    "reconnect": reconnection,
}


if __name__ == "__main__":
    main()
