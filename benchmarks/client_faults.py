"""A client behind a proxy of faults: ``python -m benchmarks.client_faults --client typescript --faults
10000``.

Callers of two clients of one panel each count up a key of their own, one call after the other, while the
proxy cuts, stalls, delays and duplicates connections, the gateway is killed now and then, and tokens live for
seconds only. After each fault some call has to be answered before the next one comes. Each answer has to be
the own count of its caller: one that is lost or runs twice shows. In the end both clients must have the state
of the gateway, and each EVENT of each call once. Anything else is a violation and the exit code 1.

The client in TypeScript is the built package in Node: ``node clients/typescript/scripts/build.mjs``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.driven_clients import Driven, Heard, RefusedError, in_node, in_python
from tests.support.fault_proxy import FAULTS, FaultProxy
from tests.support.system import System

#: Events of one commit: a connection can be cut between them, and again before they have come.
EVENTS = 3
ADD = f"""
const k = 'c' + $args;
const count = $state[k] = ($state[k] ?? 0) + 1;
for (let i = 1 - {EVENTS}; i <= 0; i++) $emit('added', [$args, {EVENTS} * count + i]);
return count;
"""
CLIENTS = {"python": in_python, "typescript": in_node}
CALLERS = 3
#: How long one answer may take after a fault, in seconds: then the client hangs.
PATIENCE_S = 60.0
#: How long the clients' tokens live.
TOKEN_S = (3.0, 20.0)


@dataclass
class Tally:
    """What happened. ``violations`` are sentences; ``refused`` calls did not run, and of ``unknown`` ones the
    client said that it cannot know.
    """

    answered: int = 0
    refused: int = 0
    unknown: int = 0
    tokens: int = 0
    notices: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


class Listener:
    """Counts a client's events, ``EVENTS`` for each call: each caller's have to come once and in order."""

    def __init__(self, name: str, tally: Tally) -> None:
        self.name, self.tally = name, tally
        self.counts: dict[int, int] = {}
        self.whole = True

    def hear(self, kind: str, what: Any) -> None:
        """A notice, or an event's payload."""
        if kind == "notice":
            self.tally.notices[what] = self.tally.notices.get(what, 0) + 1
            self.whole = self.whole and what == "recovered"
            return
        who, count = what
        before = self.counts.get(who, 0)
        if count <= before or (self.whole and count != before + 1):
            self.tally.violations.append(f"{self.name}: expected event {before + 1} of {who}, got {count}")
        self.counts[who] = count


@dataclass
class Caller:
    """Calls ``add`` again and again. ``count`` is its own count; ``may_be`` is how much higher the true one
    may be.
    """

    client: Driven
    who: int
    tally: Tally
    count: int = 0
    may_be: int = 0

    async def call(self) -> bool:
        """One call; whether it was answered."""
        try:
            value = await self.client.call("add", self.who)
        except RefusedError as exc:
            if exc.ran is None:
                self.tally.unknown += 1
                self.may_be += 1
            elif exc.ran:
                self.tally.violations.append(f"caller {self.who}: {exc}")
            else:
                self.tally.refused += 1
                await asyncio.sleep(0.02)
            return False
        if not self.count < value <= self.count + 1 + self.may_be:
            self.tally.violations.append(f"caller {self.who}: expected {self.count + 1}, got {value}")
        self.count, self.may_be = value, 0
        self.tally.answered += 1
        return True


async def run(system: System, client: str, faults: int, seed: int, kill_every: int) -> dict[str, Any]:
    """Does so many faults; what happened. ``kill_every``: the gateway is killed after so many, 0 for
    never.
    """
    panel_id = await asyncio.to_thread(system.make_panel, {"name": "add", "handler": ADD})
    chance, tally = random.Random(seed), Tally()
    begun = time.monotonic()
    progress = asyncio.Event()
    done = False

    def mint() -> str:
        tally.tokens += 1
        return system.issuer.mint(expires_in_s=random.uniform(*TOKEN_S))

    async def call(caller: Caller) -> None:
        while not done:
            if await caller.call():
                progress.set()

    def restart() -> None:
        system.the_gateway().kill()
        system.start_gateway()

    listeners = {name: Listener(name, tally) for name in ("one", "two")}
    heard: dict[str, Heard] = {name: listener.hear for name, listener in listeners.items()}
    async with (
        FaultProxy("127.0.0.1", system.port).running() as proxy,
        CLIENTS[client](proxy.url, panel_id, mint, heard) as clients,
    ):
        callers = [
            Caller(one, index * CALLERS + number, tally)
            for index, one in enumerate(clients)
            for number in range(CALLERS)
        ]
        calling = [asyncio.ensure_future(call(caller)) for caller in callers]
        made = kills = 0
        while made < faults and not tally.violations:
            progress.clear()
            await asyncio.sleep(0.004 * chance.random())
            made += 1
            if kill_every and made % kill_every == 0:
                kills += 1
                await asyncio.to_thread(restart)
            else:
                proxy.harm(chance.choice(FAULTS), seconds=0.3 * chance.random() ** 4)
            await _progress(progress, calling)
        done = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*calling)
            truth = await asyncio.to_thread(system.state, panel_id)
            while any([await one.state() != truth for one in clients]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for caller in callers:
            if not caller.count <= truth[f"c{caller.who}"] <= caller.count + caller.may_be:
                effects = truth[f"c{caller.who}"]
                tally.violations.append(
                    f"caller {caller.who}: expected {caller.count} effects, got {effects}"
                )
        for listener in listeners.values():
            if listener.whole and {f"c{who}": n / EVENTS for who, n in listener.counts.items()} != truth:
                tally.violations.append(f"{listener.name}: expected an event for each call")
        return {
            "client": client,
            "faults": made,
            "kinds": {**proxy.done, **({"kill": kills} if kills else {})},
            "answered": tally.answered,
            "refused": tally.refused,
            "unknown": tally.unknown,
            "tokens": tally.tokens,
            "notices": tally.notices,
            "seconds": round(time.monotonic() - begun, 1),
            "violations": tally.violations,
        }


async def _progress(progress: asyncio.Event, calling: Sequence[asyncio.Future[None]]) -> None:
    """Returns when a call was answered. Raises what ended a caller, and ``TimeoutError``."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(progress.wait())
    try:
        ended, _ = await asyncio.wait(
            [waiting, *calling], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        waiting.cancel()
    if not ended:
        raise TimeoutError(f"expected an answer within {PATIENCE_S:g} s of a fault, got none")
    for one in ended - {waiting}:
        one.result()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="client_faults", description="A client and 10,000 faults.")
    parser.add_argument("--client", choices=CLIENTS, default="python")
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--kill-every", type=int, default=250, metavar="N", help="0 for never (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with System() as system:
        system.start(processes=2)
        told = asyncio.run(
            run(system, arguments.client, arguments.faults, arguments.seed, arguments.kill_every)
        )
    for name, value in told.items():
        print(f"{name:<12}{value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(told))
    return 1 if told["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
