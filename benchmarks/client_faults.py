"""The client in Python behind a proxy of faults: ``python -m benchmarks.client_faults --faults 10000``.

Callers of two clients of one panel each count up a key of their own, one call after the other, while the
proxy cuts, stalls, delays and duplicates connections. After each fault some call has to be answered before
the next one comes. Each answer has to be the own count of its caller: one that is lost or runs twice shows.
In the end both clients must have the state of the gateway, and each EVENT once. Anything else is a violation
and the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panels_client import Event, Options, Panel, connect
from tests.support.fault_proxy import FAULTS, FaultProxy
from tests.support.system import System

ADD = "const k = 'c' + $args; $state[k] = ($state[k] ?? 0) + 1; $emit('added', [$args, $state[k]]); return $state[k];"
OPTIONS = Options(
    backoff_initial_s=0.005,
    backoff_max_s=0.05,
    connect_timeout_s=2.0,
    ping_after_s=0.15,
    pong_timeout_s=0.15,
    proxy=None,
)
CALLERS = 3
#: How long one answer may take after a fault, in seconds: then the client hangs.
PATIENCE_S = 60.0


@dataclass
class Tally:
    """What happened. ``violations`` are sentences."""

    answered: int = 0
    notices: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Listener:
    """Counts a client's events: each caller's counts have to come once and in order."""

    def __init__(self, name: str, panel: Panel, tally: Tally) -> None:
        self.name, self.tally = name, tally
        self.counts: dict[int, int] = {}
        self.whole = True
        panel.on("added", self.hear)
        panel.on_notice(lambda notice: self.notice(notice.kind))

    def notice(self, kind: str) -> None:
        self.tally.notices[kind] = self.tally.notices.get(kind, 0) + 1
        if kind != "recovered":
            self.whole = False

    def hear(self, event: Event) -> None:
        who, count = event.payload
        before = self.counts.get(who, 0)
        if count <= before or (self.whole and count != before + 1):
            self.tally.violations.append(f"{self.name}: expected event {before + 1} of {who}, got {count}")
        self.counts[who] = count


async def run(system: System, faults: int, seed: int) -> dict[str, Any]:
    """Does so many faults; what happened."""
    panel_id = await asyncio.to_thread(system.make_panel, {"name": "add", "handler": ADD})
    chance, tally = random.Random(seed), Tally()
    begun = time.monotonic()
    progress = asyncio.Event()
    done = False

    async def call(panel: Panel, who: int) -> None:
        count = 0
        while not done:
            count += 1
            result = await panel.call("add", who, timeout=None)
            if result.value != count:
                tally.violations.append(f"caller {who}: expected {count}, got {result.value}")
                count = result.value
            tally.answered += 1
            progress.set()

    token = system.token()
    async with (
        FaultProxy("127.0.0.1", system.port).running() as proxy,
        connect(proxy.url, panel=panel_id, token=token, options=OPTIONS) as one,
        connect(proxy.url, panel=panel_id, token=token, options=OPTIONS) as two,
    ):
        listeners = [Listener("one", one, tally), Listener("two", two, tally)]
        callers = [
            asyncio.ensure_future(call(panel, who))
            for panel, first in ((one, 0), (two, CALLERS))
            for who in range(first, first + CALLERS)
        ]
        made = 0
        while made < faults and not tally.violations:
            progress.clear()
            await asyncio.sleep(0.004 * chance.random())
            proxy.harm(chance.choice(FAULTS), seconds=0.3 * chance.random() ** 4)
            made += 1
            async with asyncio.timeout(PATIENCE_S):
                await progress.wait()
        done = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*callers)
            truth = await asyncio.to_thread(system.state, panel_id)
            while not dict(one.state) == dict(two.state) == truth:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if sum(truth.values()) != tally.answered:
            tally.violations.append(f"expected {tally.answered} effects, got {sum(truth.values())}")
        for listener in listeners:
            if listener.whole and {f"c{who}": n for who, n in listener.counts.items()} != truth:
                tally.violations.append(f"{listener.name}: expected an event for each call")
        return {
            "faults": made,
            "kinds": dict(proxy.done),
            "answered": tally.answered,
            "notices": tally.notices,
            "seconds": round(time.monotonic() - begun, 1),
            "violations": tally.violations,
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="client_faults", description="The client in Python and 10,000 faults."
    )
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with System() as system:
        system.start(processes=2)
        told = asyncio.run(run(system, arguments.faults, arguments.seed))
    for name, value in told.items():
        print(f"{name:<12}{value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told))
    return 1 if told["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
