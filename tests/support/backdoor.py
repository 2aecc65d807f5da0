"""A system of real processes whose sandbox is the attacker's: for proofs that a taken-over sandbox reaches
nothing but the jobs that it was given.

    printed = run_attack('''
    import socket

    def attack(captive):
        captive.attempt("a new socket", lambda: socket.socket())
        print("what print says")
    ''')
    assert "a new socket: PermissionError 1" in printed

``backdoored_sandbox`` says what an attack is given. Use ``taken_over`` to look at the system meanwhile, with
an honest pool beside the attacker's for instance.

    python -m tests.support.backdoor ATTACK.py [OPTIONS OF panels-worker]     is the attacker's pool
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import backdoored_sandbox
from tests.support.backdoored_sandbox import ENDED, MARK
from tests.support.system import Process, System, eventually

ROOT = Path(__file__).parents[2]

_numbers = itertools.count(1)


@dataclass
class TakenOver:
    """A running system, and the pool whose sandboxes are the attacker's."""

    system: System
    pool: Process

    def printed(self) -> list[str]:
        """What attacks have printed so far, line by line."""
        return [line.partition(MARK)[2] for line in self.pool.text.splitlines() if MARK in line]

    def await_end(self, *, within_s: float = 40.0) -> list[str]:
        """What was printed, once an attack has ended."""
        eventually(lambda: ENDED in self.printed(), within_s=within_s, what="the attack to end")
        return self.printed()


def start_taken_over_pool(
    system: System, attack: str, *, processes: int = 1, pool: Sequence[str] = ()
) -> TakenOver:
    """Starts a pool whose ``processes`` sandboxes run ``attack``; ``pool`` are options of panels-worker."""
    name = f"attack-{next(_numbers)}"
    script = system.folder / f"{name}.py"
    script.write_text(attack)
    arguments = ["tests.support.backdoor", str(script), "--gateway", system.endpoint]
    arguments += ["--processes", str(processes), "--cache-dir", str(system.cache_dir), *pool]
    process = Process.start(name, system.folder, arguments, {"PYTHONPATH": str(ROOT)})
    system.pools.append(process)
    return TakenOver(system, process)


@contextlib.contextmanager
def taken_over(
    attack: str,
    *,
    honest: int = 0,
    processes: int = 1,
    gateway: Sequence[str] = (),
    pool: Sequence[str] = (),
    cache_dir: Path | None = None,
) -> Iterator[TakenOver]:
    """A gateway, ``honest`` sandboxes in a pool of their own that are ready, and the attacker's pool."""
    with System(gateway=gateway, cache_dir=cache_dir) as system:
        if honest:
            system.start(processes=honest)
        else:
            system.start_gateway()
        yield start_taken_over_pool(system, attack, processes=processes, pool=pool)


def run_attack(attack: str, *, pool: Sequence[str] = (), within_s: float = 40.0) -> list[str]:
    """What ``attack`` printed, in a system where there is nobody else."""
    with taken_over(attack, pool=pool) as taken:
        return taken.await_end(within_s=within_s)


def main(arguments: Sequence[str]) -> int:
    """The attacker's pool: a real one that starts the other sandbox process."""
    from panels_worker.config import parse
    from panels_worker.pool.pool import Pool

    attack, *options = arguments
    config = parse(options, os.environ)
    command = (sys.executable, "-I", "-X", "utf8", backdoored_sandbox.__file__, attack)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return Pool(replace(config, sandbox_command=command)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
