"""Minutes of random clients while workers are killed, stopped and replaced: ``scripts/soak``.

Handlers whose result depends on the order of everything before it, changes from outside, clients that come,
go and vanish. One observer per panel hears every version, and the serial model of ``benchmarks/model.py``
replays them. At the end every version must be what the model says, every answer what was committed at its
version, every client's replica what the model was at that version; nothing may be committed twice or without
having been asked, and every panel's state must be the model's. Anything else makes it exit with 1, and keeps
the logs in ``build/soak``.

``--seed`` repeats the same random choices of each visitor and of the disturbances; the order in which they
meet is up to the machine.
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
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from benchmarks import handlers
from benchmarks.load.system import ROOT, Options, System, panels
from benchmarks.model import MODULUS, Room, apply, compare

FOLD: Final = f"""\
const before = $state.h ?? 0;
$state.h = (before * 31 + $args.n) % {MODULUS};
$state.last = $args.n;
$state.n = ($state.n ?? 0) + 1;
$emit("folded", $args.n);
return [before, $state.h];
"""
FAIL: Final = "$state.h = -1; $state.last = $args.n; $emit('failed', 1); throw new Error('as asked');"
#: Answers after which nothing may have been committed.
_WITHOUT_EFFECT: Final = ("WORKER_LOST", "OVERLOADED", "RATE_LIMITED")
#: How long an answer may take while workers are lost, in seconds.
_ANSWER_S: Final = 60.0
#: How often progress is told, in seconds.
_TELL_S: Final = 10.0


class Soak:
    """One run."""

    def __init__(self, system: System, seed: int, rooms: int) -> None:
        self.system = system
        self.seed = seed
        self.rooms = [Room(f"soak-{number}") for number in range(rooms)]
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.pools: list[subprocess.Popen[bytes]] = []
        self.ending = False
        self._numbers = 0

    def violate(self, text: str) -> None:
        """Notes what must not happen, and ends the run."""
        if not self.violations:
            self._keep_logs()
        self.violations.append(text)
        if len(self.violations) <= 20:
            sys.stderr.write(f"violation: {text}\n")

    def choices(self, name: str) -> random.Random:
        """The random choices of whoever has this name."""
        return random.Random(f"{self.seed} {name}")

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

    async def http(self, method: str, path: str, body: object = None) -> Any:
        """One HTTP request, beside everything else."""
        return await asyncio.to_thread(self.system.http, method, path, body)

    # -- clients -----------------------------------------------------------------------------------------

    async def observe(self, room: Room, ready: asyncio.Event) -> None:
        """Hears every version and every event of a panel until the end."""
        async with self._client(room) as socket:
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "CONNECTED":
                    ready.set()
                elif message["type"] == "PATCH":
                    first = message.get("firstSeq", message["seq"])
                    if first != room.seq + 1 or message["seq"] != first:
                        self.violate(
                            f"{room.id}: expected version {room.seq + 1}, got {first} to {message['seq']}"
                        )
                    room.seq = message["seq"]
                    room.versions[room.seq] = changes(message)
                    self.counts["versions"] += 1
                elif message["type"] == "EVENT":
                    room.events.append((message["seq"], message["event"]["payload"]))

    def _client(self, room: Room) -> connect:
        # neither pings nor bounds: whatever ends a connection is the gateway's doing
        return connect(self.system.websocket_url(room.id), max_size=None, max_queue=None, ping_interval=None)

    async def visitors(self, name: str) -> None:
        """A client after another, until the end."""
        choose = self.choices(name)
        while not self.ending:
            try:
                await Visit(self, choose.choice(self.rooms), random.Random(choose.random())).run()
            except (ConnectionClosed, OSError, WebSocketException) as exc:
                self.violate(f"a connection ended: {exc!r}")

    async def callers(self) -> None:
        """Triggers over HTTP, one at a time, until the end."""
        choose = self.choices("callers")
        while not self.ending:
            room, number = choose.choice(self.rooms), self.number()
            room.asked[number] = "fold"
            try:
                message = await self.http(
                    "POST", f"/panels/{room.id}/trigger/fold", {"args": {"n": number}, "requestId": "h"}
                )
            except RuntimeError as exc:
                if not any(reason in str(exc) for reason in _WITHOUT_EFFECT):
                    self.violate(f"{room.id}: fold over HTTP failed: {exc}")
                room.failed.add(number)
            else:
                room.results.append((number, message["seq"], message["result"]["returnValue"]))
                self.counts["over HTTP"] += 1
            await asyncio.sleep(choose.uniform(0.0, 0.2))

    # -- disturbances ------------------------------------------------------------------------------------

    async def change(self) -> None:
        """Replaces the state of panels from outside."""
        choose = self.choices("change")
        while not self.ending:
            await asyncio.sleep(choose.uniform(0.2, 3.0))
            room, number = choose.choice(self.rooms), self.number()
            state = {"put": number, "h": number % MODULUS, "n": 0, "count": number, "last": 0}
            room.outside[number] = state
            await self.http("PUT", f"/panels/{room.id}", self.definition(room, state))
            self.counts["changes"] += 1

    async def disturb(self) -> None:
        """Kills and stops workers, and sometimes their pool."""
        choose = self.choices("disturb")
        while not self.ending:
            await asyncio.sleep(choose.uniform(0.2, 2.0))
            with contextlib.suppress(psutil.Error):
                await self._disturbance(choose)

    async def _disturbance(self, choose: random.Random) -> None:
        assert self.system.workers is not None
        kind = choose.choices(("kill", "stop", "terminate", "pool"), (6, 3, 2, 1))[0]
        which, how_long_s = choose.random(), choose.uniform(0.1, 4.0)
        if kind == "pool":
            self.counts[kind] += 1
            self.system.workers.kill()
            await asyncio.sleep(how_long_s / 4)
            self._start_pool()
            return
        sandboxes = [child for child in self.system.workers.children() if _is_sandbox(child)]
        if not sandboxes:
            return
        self.counts[kind] += 1
        victim = sandboxes[int(which * len(sandboxes))]
        if kind == "kill":
            victim.kill()
        elif kind == "terminate":
            victim.terminate()
        else:
            victim.suspend()
            await asyncio.sleep(how_long_s)
            victim.resume()

    def _start_pool(self) -> None:
        assert self.system.log is not None
        with self.system.log.open("ab") as log:
            pool = subprocess.Popen(
                self.system.worker_command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pools.append(pool)
        self.system.workers = psutil.Process(pool.pid)

    def end_pools(self) -> None:
        """Ends the pools that were started here."""
        for pool in self.pools:
            pool.send_signal(signal.SIGTERM)
        for pool in self.pools:
            pool.wait(15)

    # -- the whole ---------------------------------------------------------------------------------------

    async def run(self, seconds: float, clients: int) -> None:
        """Everything, then the comparison."""
        for room in self.rooms:
            await self.http("POST", "/panels", self.definition(room, {}))
        ready = [asyncio.Event() for _ in self.rooms]
        observers = [
            asyncio.create_task(self.observe(room, event))
            for room, event in zip(self.rooms, ready, strict=True)
        ]
        await asyncio.gather(*(event.wait() for event in ready))
        tasks = [
            asyncio.create_task(self.visitors(f"visitor {number}")) for number in range(max(1, clients - 1))
        ]
        tasks += [asyncio.create_task(each()) for each in (self.callers, self.change, self.disturb)]
        await self._progress(seconds, tasks)
        self.ending = True
        await asyncio.gather(*tasks)
        await self._compare()
        for observer in observers:
            observer.cancel()
        for outcome in await asyncio.gather(*observers, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.violate(f"an observer ended: {outcome!r}")

    async def _progress(self, seconds: float, tasks: list[asyncio.Task[None]]) -> None:
        began = told = time.monotonic()
        while (now := time.monotonic()) - began < seconds and not self.violations:
            await asyncio.wait(tasks, timeout=min(1.0, seconds), return_when=asyncio.FIRST_EXCEPTION)
            if any(task.done() for task in tasks):
                return  # it has failed, and gather says how
            if now - told >= _TELL_S:
                told = now
                sys.stderr.write(f"{now - began:5.0f} s  {summary(self.counts)}\n")

    async def _compare(self) -> None:
        for room in self.rooms:
            # triggers of clients that vanished may still be on their way
            found = await self.http("GET", f"/panels/{room.id}/state")
            for _ in range(500):
                await asyncio.sleep(0.02)
                before, found = found, await self.http("GET", f"/panels/{room.id}/state")
                if room.seq == found["seq"] == before["seq"]:
                    break
            for text in compare(room, found["seq"], found["state"])[:20]:
                self.violate(text)

    def _keep_logs(self) -> None:
        """Copies what explains a violation to ``build/soak``: the log, the metrics, the processes."""
        folder = ROOT / "build" / "soak"
        folder.mkdir(parents=True, exist_ok=True)
        if self.system.log is not None:
            folder.joinpath("log").write_bytes(self.system.log.read_bytes())
        try:
            folder.joinpath("metrics").write_text(self.system.text("/metrics"))
        except (OSError, RuntimeError) as exc:
            folder.joinpath("metrics").write_text(f"{exc}\n")
        lines = []
        for parent in (self.system.server, self.system.workers):
            with contextlib.suppress(psutil.Error):
                family = (parent, *parent.children(recursive=True)) if parent else ()
                lines += [f"{each.pid} {each.status()} {' '.join(each.cmdline())}\n" for each in family]
        folder.joinpath("processes").write_text("".join(lines))


class Visit:
    """One client: some triggers, then it leaves, or is gone in the middle of them."""

    def __init__(self, soak: Soak, room: Room, choose: random.Random) -> None:
        self.soak = soak
        self.room = room
        self.choose = choose
        self.waiting: dict[str, int] = {}
        self.state: dict[str, Any] = {}
        self.seq = 0
        self.window = choose.choice((1, 1, 2, 6))
        #: it hears its own answers, and of the state only one key
        self.partial = choose.random() < 0.2
        self.vanishes = choose.random() < 0.3
        self.until = time.monotonic() + choose.uniform(0.3, 4.0)

    def leaving(self) -> bool:
        """Whether it triggers no more."""
        return self.soak.ending or time.monotonic() >= self.until

    async def run(self) -> None:
        """All of it."""
        async with self.soak._client(self.room) as socket:
            self.soak.counts["clients"] += 1
            self._connected(json.loads(await socket.recv()))
            if self.partial:
                await socket.send('{"type":"UNSUBSCRIBE","topics":["state","events"]}')
                await socket.send('{"type":"SUBSCRIBE","topics":["state:h","event:fold*"]}')
            while self.waiting or not self.leaving():
                while len(self.waiting) < self.window and not self.leaving():
                    await self._trigger(socket)
                if self.vanishes and self.leaving():
                    self.soak.counts["vanished"] += 1
                    socket.transport.abort()
                    return
                await self._hear(socket)
            if not self.partial:
                self.room.replicas.append((self.seq, self.state))

    def _connected(self, message: dict[str, Any]) -> None:
        if message["type"] != "CONNECTED":
            self.soak.violate(f"{self.room.id}: expected CONNECTED, got {message['type']}")
            return
        self.state, self.seq = message["state"], message["seq"]
        self.room.replicas.append((self.seq, self.state))

    async def _trigger(self, socket: ClientConnection) -> None:
        number = self.soak.number()
        tool = self.choose.choices(("fold", "count", "fail"), (8, 4, 1))[0]
        self.room.asked[number] = tool
        self.waiting[str(number)] = number
        args = {"n": number} if tool != "count" else {"by": 1}
        await socket.send(
            json.dumps({"type": "TRIGGER", "tool": tool, "args": args, "requestId": str(number)})
        )
        self.soak.counts["triggers"] += 1

    async def _hear(self, socket: ClientConnection) -> None:
        try:
            # a client that waits for nothing looks at the clock now and then
            message = json.loads(await asyncio.wait_for(socket.recv(), _ANSWER_S if self.waiting else 0.2))
        except TimeoutError:
            if self.waiting:
                waiting = list(self.waiting)
                self.soak.violate(f"{self.room.id}: no answer to {waiting} within {_ANSWER_S:.0f} s")
                self.waiting.clear()
            return
        kind = message["type"]
        if kind == "RESULT":
            number = self._answered(message)
            if number is not None:
                self.room.results.append((number, message["seq"], message["result"]["returnValue"]))
                self.soak.counts["results"] += 1
        elif kind == "ERROR":
            self._failed(message)
        elif kind == "PATCH":
            self._patched(message)

    def _answered(self, message: dict[str, Any]) -> int | None:
        number = self.waiting.pop(message.get("requestId", ""), None)
        if number is None:
            self.soak.violate(f"{self.room.id}: an answer that was not awaited: {message}")
        return number

    def _failed(self, message: dict[str, Any]) -> None:
        number = self._answered(message)
        if number is None:
            return
        self.room.failed.add(number)
        reason = message.get("details", {}).get("reason") or message["code"]
        self.soak.counts[reason] += 1
        tool = self.room.asked[number]
        if not (tool == "fail" and reason == "HANDLER_ERROR") and reason not in _WITHOUT_EFFECT:
            self.soak.violate(f"{self.room.id}: {tool} failed: {message}")

    def _patched(self, message: dict[str, Any]) -> None:
        first = message.get("firstSeq", message["seq"])
        if not self.partial and first != self.seq + 1:
            self.soak.violate(f"{self.room.id}: expected version {self.seq + 1} of a client, got {first}")
        self.seq = message["seq"]
        self.state = apply(self.state, changes(message))


def changes(message: dict[str, Any]) -> dict[str, Any]:
    """The value by key that a PATCH sets, None for a key that it deletes."""
    return {item["key"]: item.get("value") for item in message["mutations"]}


def summary(counts: dict[str, Any]) -> str:
    """Counts in a line, by name."""
    return "  ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _is_sandbox(process: psutil.Process) -> bool:
    return "sandbox" in " ".join(process.cmdline())


def main() -> None:
    """The command."""
    made = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long (10)")
    made.add_argument("--seed", type=int, default=None, metavar="N", help="of the random choices")
    made.add_argument("--workers", type=int, default=2, metavar="N", help="sandbox processes (2)")
    made.add_argument("--panels", type=int, default=6, metavar="N", help="panels (6)")
    made.add_argument("--clients", type=int, default=8, metavar="N", help="clients at a time (8)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    options = made.parse_args()
    for name in ("minutes", "workers", "panels", "clients"):
        if getattr(options, name) <= 0:
            made.error(f"--{name}: expected more than 0, got {getattr(options, name)}")
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "big")
    sys.stderr.write(f"seed {seed}\n")
    with panels(Options(workers=options.workers)) as system:
        soak = Soak(system, seed, options.panels)
        try:
            uvloop.run(soak.run(options.minutes * 60, options.clients))
        finally:
            soak.end_pools()
    told = {"seed": seed, "minutes": options.minutes, **soak.counts, "violations": len(soak.violations)}
    print(f"seed {seed}  {summary(soak.counts)}  violations {len(soak.violations)}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    if soak.violations:
        sys.stderr.write("logs, metrics and processes of the first violation: build/soak\n")
    sys.exit(1 if soak.violations else 0)


if __name__ == "__main__":
    main()
