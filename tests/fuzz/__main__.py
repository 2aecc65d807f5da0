"""The command behind ``scripts/fuzz``: processes that fuzz until one finds something.

    parent ──▶ child 1: targets 1, 3, 5 ... in turns of a second ──▶ a line of JSON after each turn
           └─▶ child 2: targets 2, 4, 6 ...                          and one for a finding, after which it
           ends

Processes: this one reads, prints and ends the others; each child has its share of the targets and its own
seed. Time-outs: a child that says nothing for ``SILENCE_S`` hangs in an input and is killed. Each child
notes the input that it is about to run in a file of its own, so that one that hangs or dies leaves what it
died of.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fuzz.fuzzer import Finding, Fuzzer, execute, minimise, save, warm
from tests.fuzz.targets import TARGETS

#: How long a child stays with one target before the next has its turn.
TURN_S: Final = 1.0
SILENCE_S: Final = 120.0


@dataclass(slots=True)
class Child:
    """A process that fuzzes, the file with the input that it runs, and when it was heard of."""

    process: subprocess.Popen[bytes]
    last: Path
    heard_s: float


def main(arguments: Sequence[str]) -> int:
    """0 when the time was over without a finding, 1 for a finding, 2 for a command that makes no sense."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Fuzzes until something is found.")
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"all without one: {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, help="how long; without an end if it is not given")
    parser.add_argument("--seed", type=int, help="the same seed makes the same inputs; random without one")
    parser.add_argument("--processes", type=int, default=1, help="how many at a time (1)")
    parser.add_argument(
        "--input", type=Path, help="run this one input of the one TARGET and say what comes of it"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"TARGET: expected one of {', '.join(TARGETS)}, got {name}")
    if options.input is not None:
        if len(options.targets) != 1:
            parser.error("--input: expected one TARGET beside it")
        return _run_one(options.targets[0], options.input)
    names = options.targets or list(TARGETS)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    if options.child is not None:
        return _child(names, seed, options.child)
    return _parent(names, seed, max(1, options.processes), options.minutes)


def _run_one(name: str, path: Path) -> int:
    target = TARGETS[name]()
    warm(target)
    outcome = execute(target, path.read_bytes())
    target.close()
    if isinstance(outcome, Finding):
        print(outcome.text)
        return 1
    print(f"{name}: {outcome}")
    return 0


# -- the parent ------------------------------------------------------------------------------------------


def _parent(names: list[str], seed: int, processes: int, minutes: float | None) -> int:
    print(f"fuzz: seed {seed}, {len(names)} targets, {processes} processes", flush=True)
    ends_s: float | None = None
    with tempfile.TemporaryDirectory() as folder, selectors.DefaultSelector() as selector:
        children = []
        for number in range(processes):
            share = names[number::processes] or [names[number % len(names)]]
            child = _start(share, seed + number, Path(folder) / str(number))
            assert child.process.stdout is not None
            selector.register(child.process.stdout, selectors.EVENT_READ, child)
            children.append(child)
        try:
            while ends_s is None or time.monotonic() < ends_s:
                for key, _ in selector.select(timeout=1.0):
                    code = hear(key.data)
                    if code is not None:
                        return code
                    if ends_s is None and minutes is not None:
                        ends_s = (
                            time.monotonic() + 60 * minutes
                        )  # starting, and the seeds, take no part of it
                for child in children:
                    if time.monotonic() - child.heard_s > SILENCE_S:
                        return _left(child, f"hangs: it said nothing for {SILENCE_S:g} s")
        except KeyboardInterrupt:
            print("fuzz: interrupted; nothing was found")
            return 0
        finally:
            for child in children:
                child.process.kill()
                child.process.wait()
    print("fuzz: the time is over; nothing was found")
    return 0


def _start(names: list[str], seed: int, last: Path) -> Child:
    command = [sys.executable, "-m", "tests.fuzz", *names, "--seed", str(seed), "--child", str(last)]
    return Child(subprocess.Popen(command, stdout=subprocess.PIPE), last, time.monotonic())


def hear(child: Child) -> int | None:
    """Prints what a child says; the exit code of the command, if it is over."""
    assert child.process.stdout is not None
    line = child.process.stdout.readline()
    child.heard_s = time.monotonic()
    if not line:
        code = child.process.wait()
        word = signal.Signals(-code).name if code < 0 else str(code)
        return _left(child, f"ends its process: {word}")
    said: dict[str, Any] = json.loads(line)
    if "finding" not in said:
        print(
            f"{said['target']:<18} {said['executions']:>10,} executions  {said['per_s']:>8,.0f} /s  "
            f"{said['outcomes']:>6,} outcomes  {said['corpus']:>6,} inputs",
            flush=True,
        )
        return None
    print(f"\n{said['text']}")
    _tell(said["target"], Path(said["finding"]), said["kind"])
    return 1


def _left(child: Child, problem: str) -> int:
    """What to do with the input that a child died of, or hangs in. It is not made smaller."""
    try:
        name, _, data = child.last.read_bytes().partition(b"\n")
    except OSError:
        print(f"fuzz: a process {problem}, before its first input")
        return 1
    target = name.decode()
    _tell(target, save(target, data), problem)
    return 1


def _tell(target: str, path: Path, kind: str) -> None:
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(
        f"fuzz: {target}: {kind}\nfuzz: the input is in {shown}; again: scripts/fuzz {target} --input {shown}"
    )


# -- a child ---------------------------------------------------------------------------------------------


def _child(names: list[str], seed: int, last: Path) -> int:
    logging.lastResort = None  # what the targets log about their inputs is not for the terminal
    descriptor = os.open(last, os.O_WRONLY | os.O_CREAT, 0o600)

    def fuzzer_of(name: str) -> Fuzzer:
        head = name.encode() + b"\n"

        def note(data: bytes) -> None:
            os.ftruncate(descriptor, os.pwrite(descriptor, head + data, 0))

        return Fuzzer(TARGETS[name](), seed, before=note)

    fuzzers = [fuzzer_of(name) for name in names]
    while True:
        for fuzzer in fuzzers:
            finding = _turn(fuzzer)
            if finding is not None:
                return report(fuzzer, finding)


def _turn(fuzzer: Fuzzer) -> Finding | None:
    """A second of one target."""
    began_s, before = time.monotonic(), fuzzer.executions
    while (spent_s := time.monotonic() - began_s) < TURN_S:
        finding = fuzzer.step()
        if finding is not None:
            return finding
    _say(
        target=fuzzer.target.name,
        executions=fuzzer.executions,
        per_s=(fuzzer.executions - before) / spent_s,
        outcomes=len(fuzzer.outcomes),
        corpus=len(fuzzer.corpus),
    )
    return None


def report(fuzzer: Fuzzer, finding: Finding) -> int:
    """Makes the finding small, keeps it, and tells the parent."""
    target = fuzzer.target
    smallest = minimise(target, finding)
    path = save(target.name, smallest.data)
    _say(target=target.name, finding=str(path), kind=smallest.kind, text=smallest.text)
    return 0


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
