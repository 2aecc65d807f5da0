"""Minutes of random clients while workers are killed, stopped and replaced: ``scripts/soak``.

Handlers whose result depends on the order of everything before it, changes from outside, clients that come, go and vanish. One
observer per panel hears every version; a trivial serial model replays them. At the end every version must be what the model says,
every answer must be what was committed at its version, nothing may be committed twice or without having been asked, and every
panel's state must be the model's. Anything else makes it exit with 1; ``--seed`` repeats the same random choices.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from benchmarks import handlers
from benchmarks.load.system import Options, System, panels

MODULUS: Final = 1_000_003
FOLD: Final = f"""\
const before = $state.h ?? 0;
$state.h = (before * 31 + $args.n) % {MODULUS};
$state.last = $args.n;
$state.n = ($state.n ?? 0) + 1;
$emit("folded", $args.n);
return [before, $state.h];
"""
FAIL: Final = "$state.h = -1; $state.last = $args.n; throw new Error('as asked');"
#: Answers after which nothing may have been committed.
_WITHOUT_EFFECT: Final = ("WORKER_LOST", "OVERLOADED", "RATE_LIMITED")
_ANSWER_S: Final = 90.0


@dataclass(slots=True)
class Room:
    """A panel: what was asked of it, what its observer heard, and the model."""

    id: str
    #: number of each trigger → its tool
    asked: dict[int, str] = field(default_factory=dict)
    #: version → mutations by key
    versions: dict[int, dict[str, Any]] = field(default_factory=dict)
    #: (number, version, return value) of each RESULT
    results: list[tuple[int, int, Any]] = field(default_factory=list)
    #: numbers that were answered by an error
    failed: set[int] = field(default_factory=set)
    #: numbers of changes from outside → the state they set
    outside: dict[int, dict[str, Any]] = field(default_factory=dict)
    seq: int = 0


class Soak:
    """One run."""

    def __init__(self, system: System, seed: int, rooms: int) -> None:
        self.system = system
        self.random = random.Random(seed)
        self.rooms = [Room(f"soak-{number}") for number in range(rooms)]
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.extra: list[subprocess.Popen[bytes]] = []
        self.ending = False
        self._numbers = 0

    def violate(self, text: str) -> None:
        """Notes what must not happen."""
        self.violations.append(text)
        sys.stderr.write(f"violation: {text}\n")

    def number(self) -> int:
        """A number that is never used again."""
        self._numbers += 1
        return self._numbers

    def definition(self, room: Room, state: dict[str, Any]) -> dict[str, Any]:
        """The panel, as it is made and as it is replaced."""
        tools = [
            {"name": "fold", "handler": FOLD},
            {"name": "fail", "handler": FAIL},
            {"name": "count", "handler": {"language": "wat", "source": handlers.COUNTER_WAT}},
        ]
        return {"id": room.id, "kind": "soak", "tools": tools, "initialState": state}

    # -- clients -----------------------------------------------------------------------------------------

    async def observe(self, room: Room, ready: asyncio.Event) -> None:
        """Hears every version of a panel until the end."""
        async with connect(self.system.websocket_url(room.id), max_size=None, max_queue=None) as socket:
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "CONNECTED":
                    ready.set()
                elif message["type"] == "PATCH":
                    self._version(room, message)

    def _version(self, room: Room, message: dict[str, Any]) -> None:
        first = message.get("firstSeq", message["seq"])
        if first != room.seq + 1 or message["seq"] != first:
            self.violate(f"{room.id}: expected version {room.seq + 1}, got {first} to {message['seq']}")
        room.seq = message["seq"]
        room.versions[room.seq] = {item["key"]: item.get("value") for item in message["mutations"]}
        self.counts["versions"] += 1

    async def visitors(self) -> None:
        """A client after another, until the end."""
        while not self.ending:
            with contextlib.suppress(ConnectionClosed, OSError, WebSocketException):
                await self.visit(self.random.choice(self.rooms))

    async def visit(self, room: Room) -> None:
        """One client: some triggers, then it leaves, or is gone in the middle of them."""
        window = self.random.choice((1, 1, 2, 6))
        until = time.monotonic() + self.random.uniform(0.3, 4.0)
        async with connect(self.system.websocket_url(room.id), max_size=None, max_queue=None) as socket:
            self.counts["clients"] += 1
            await self._connected(room, socket)
            waiting: dict[str, int] = {}
            while waiting or (time.monotonic() < until and not self.ending):
                while len(waiting) < window and time.monotonic() < until and not self.ending:
                    await self._trigger(room, socket, waiting)
                if self.random.random() < 0.001 and waiting:
                    self.counts["vanished"] += 1
                    socket.transport.abort()
                    return
                await self._hear(room, socket, waiting)

    async def _connected(self, room: Room, socket: ClientConnection) -> None:
        message = json.loads(await socket.recv())
        if message["type"] != "CONNECTED":
            self.violate(f"{room.id}: expected CONNECTED, got {message['type']}")

    async def _trigger(self, room: Room, socket: ClientConnection, waiting: dict[str, int]) -> None:
        number = self.number()
        tool = self.random.choices(("fold", "count", "fail"), (8, 4, 1))[0]
        room.asked[number] = tool
        waiting[str(number)] = number
        args = {"n": number} if tool != "count" else {"by": 1}
        await socket.send(
            json.dumps({"type": "TRIGGER", "tool": tool, "args": args, "requestId": str(number)})
        )
        self.counts["triggers"] += 1

    async def _hear(self, room: Room, socket: ClientConnection, waiting: dict[str, int]) -> None:
        try:
            message = json.loads(await asyncio.wait_for(socket.recv(), _ANSWER_S))
        except TimeoutError:
            self.violate(f"{room.id}: no answer to {list(waiting)[:5]} within {_ANSWER_S:.0f} s")
            waiting.clear()
            return
        if message["type"] == "RESULT":
            number = waiting.pop(message["requestId"], None)
            if number is None:
                self.violate(f"{room.id}: an answer to {message['requestId']}, which was not awaited")
            else:
                room.results.append((number, message["seq"], message["result"]["returnValue"]))
                self.counts["results"] += 1
        elif message["type"] == "ERROR":
            number = waiting.pop(message.get("requestId", ""), None)
            if number is None:
                self.violate(f"{room.id}: an error that answers nothing: {message}")
                return
            room.failed.add(number)
            reason = message.get("details", {}).get("reason") or message["code"]
            self.counts[reason] += 1
            expected = room.asked[number] == "fail" and reason == "HANDLER_ERROR"
            if not expected and reason not in _WITHOUT_EFFECT:
                self.violate(f"{room.id}: {room.asked[number]} failed: {message}")

    # -- disturbances ------------------------------------------------------------------------------------

    async def change(self) -> None:
        """Replaces the state of panels from outside."""
        while not self.ending:
            await asyncio.sleep(self.random.uniform(0.2, 3.0))
            room = self.random.choice(self.rooms)
            number = self.number()
            state = {"put": number, "h": number % MODULUS, "n": 0, "count": number, "last": 0}
            room.outside[number] = state
            await asyncio.to_thread(
                self.system.http, "PUT", f"/panels/{room.id}", self.definition(room, state)
            )
            self.counts["changes"] += 1

    async def disturb(self) -> None:
        """Kills and stops workers, and sometimes their pool."""
        while not self.ending:
            await asyncio.sleep(self.random.uniform(0.3, 2.5))
            with contextlib.suppress(psutil.Error):
                await self._disturbance()

    async def _disturbance(self) -> None:
        assert self.system.workers is not None
        kind = self.random.choices(("kill", "stop", "terminate", "pool"), (6, 3, 2, 1))[0]
        self.counts[kind] += 1
        if kind == "pool":
            self.system.workers.kill()
            await asyncio.sleep(self.random.uniform(0.0, 1.0))
            self._start_pool()
            return
        children = [
            child for child in self.system.workers.children() if "sandbox" in " ".join(child.cmdline())
        ]
        if not children:
            return
        victim = self.random.choice(children)
        if kind == "kill":
            victim.kill()
        elif kind == "terminate":
            victim.terminate()
        else:
            victim.suspend()
            await asyncio.sleep(self.random.uniform(0.1, 4.0))
            victim.resume()

    def _start_pool(self) -> None:
        assert self.system.log is not None
        with self.system.log.open("ab") as log:
            pool = subprocess.Popen(
                self.system.worker_command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.extra.append(pool)
        self.system.workers = psutil.Process(pool.pid)

    # -- the whole ---------------------------------------------------------------------------------------

    async def run(self, seconds: float, clients: int) -> None:
        """Everything, then the comparison."""
        for room in self.rooms:
            await asyncio.to_thread(self.system.http, "POST", "/panels", self.definition(room, {}))
        ready = [asyncio.Event() for _ in self.rooms]
        observers = [
            asyncio.create_task(self.observe(room, event))
            for room, event in zip(self.rooms, ready, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in ready))
        visitors = [asyncio.create_task(self.visitors()) for _ in range(clients)]
        others = [asyncio.create_task(self.change()), asyncio.create_task(self.disturb())]
        await self._progress(seconds)
        self.ending = True
        await asyncio.gather(*others)
        await asyncio.gather(*visitors)
        await self._compare()
        for observer in observers:
            observer.cancel()
        for outcome in await asyncio.gather(*observers, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.violate(f"an observer ended: {outcome!r}")

    async def _progress(self, seconds: float) -> None:
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds and not self.violations:
            await asyncio.sleep(min(10.0, seconds - elapsed + 0.01))
            told = "  ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items()))
            sys.stderr.write(f"{time.monotonic() - began:5.0f} s  {told}\n")

    async def _compare(self) -> None:
        for room in self.rooms:
            found = await asyncio.to_thread(self.system.http, "GET", f"/panels/{room.id}/state")
            for _ in range(500):
                if room.seq >= found["seq"]:
                    break
                await asyncio.sleep(0.02)
            # triggers of clients that vanished may still be committed
            found = await asyncio.to_thread(self.system.http, "GET", f"/panels/{room.id}/state")
            for text in compare(room, found["seq"], found["state"]):
                self.violate(text)


def compare(room: Room, seq: int, state: dict[str, Any]) -> list[str]:
    """What differs between what a panel's clients saw, its final ``state`` at ``seq``, and the serial model."""
    wrong: list[str] = []
    model: dict[str, Any] = {}
    by_number: dict[int, int] = {}
    if sorted(room.versions) != list(range(1, seq + 1)):
        wrong.append(
            f"{room.id}: expected the observer to hear versions 1 to {seq}, got {len(room.versions)}"
        )
    for version in sorted(room.versions):
        changes = room.versions[version]
        if "put" in changes:
            expected = dict(room.outside.get(changes["put"], {}))
            number = -changes["put"]
        elif set(changes) == {"count"}:
            expected = model | {"count": model.get("count", 0) + 1}
            number = 0
        else:
            number = changes.get("last", 0)
            expected = model | {
                "h": (model.get("h", 0) * 31 + number) % MODULUS,
                "last": number,
                "n": model.get("n", 0) + 1,
            }
            if room.asked.get(number) != "fold":
                wrong.append(f"{room.id}: version {version} is of {number}, which was not asked")
            if number in room.failed:
                wrong.append(f"{room.id}: version {version} is of {number}, which was said to have failed")
        after = {key: value for key, value in {**model, **changes}.items() if value is not None}
        if after != expected:
            wrong.append(f"{room.id}: expected {expected} at version {version}, got {after}")
        if number and number in by_number:
            wrong.append(f"{room.id}: {number} was committed as {by_number[number]} and as {version}")
        by_number[number] = version
        model = after
    if state != model:
        wrong.append(f"{room.id}: expected the state {model}, got {state}")
    for number, version, value in room.results:
        changes = room.versions.get(version, {})
        right = changes.get("last") == number and value[1] == changes["h"] if room.asked[number] == "fold" else changes.get("count") == value  # fmt: skip
        if not right:
            wrong.append(f"{room.id}: {number} was answered {value} at version {version}, which is {changes}")
    return wrong


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long (10)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the random choices")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="sandbox processes (2)")
    parser.add_argument("--panels", type=int, default=6, metavar="N", help="panels (6)")
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="clients at a time (8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "big")
    sys.stderr.write(f"seed {seed}\n")
    with panels(Options(workers=options.workers)) as system:
        soak = Soak(system, seed, options.panels)
        try:
            uvloop.run(soak.run(options.minutes * 60, options.clients))
        finally:
            for pool in soak.extra:
                pool.send_signal(signal.SIGTERM)
            for pool in soak.extra:
                pool.wait(15)
    told = {"seed": seed, "minutes": options.minutes, **soak.counts, "violations": len(soak.violations)}
    print("  ".join(f"{name} {count}" for name, count in told.items()))
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    sys.exit(1 if soak.violations else 0)


if __name__ == "__main__":
    main()
