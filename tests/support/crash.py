"""The crash harness, behind ``scripts/crash``: clients at full speed, while every process of a system is
killed at random.

Rooms are panels with a few clients each, all different: some hear everything, some only a part, some cut
themselves off, one says now and then that its state is void, one calls over HTTP. Every call has an
idempotency key and is sent until it is answered. Meanwhile gateway, folding process, pool and sandboxes get
SIGKILL, and SIGSTOP for a while, alone and all at once, also while they start. A room ends after some hundred
calls, with a comparison, and another takes its place.

What must hold, and is a violation otherwise:

- every call is answered, and each that was answered with a RESULT ran once: the state says which keys ran,
  and in which order;
- what was answered with an ERROR left nothing behind, but for the steps that it names;
- a handler that waits does each of its steps once, and goes on after every kill;
- the panel's version is the number of commits, and its epoch never changes;
- each client ends with the server's state, and follows every step to it (``Replica``): nothing missing,
  nothing twice, but where the server said so itself (``recovered: false``); who was never told so heard every
  event once, in order;
- at the end, after one more SIGKILL, every panel ever made is there as it was, and ``verify`` finds nothing.

``--seed`` repeats the random choices; when they meet what is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from websockets.exceptions import ConnectionClosed

from benchmarks.handlers import COUNTER_WAT
from panels_gateway.journal.segments import read_log
from panels_gateway.journal.verify import verify
from tests.support.resuming import RETRIED, Call, GapError, Replica, ResumingClient, persist
from tests.support.system import System

#: Notes its key with its place among all that ran, and says so.
APPEND: Final = """\
const key = "k" + $args.n;
if ($state[key] !== undefined) $state.twice = $args.n;
$state.n = ($state.n ?? 0) + 1;
$state[key] = $state.n;
$emit("ran", $args.n);
return $state.n;
"""
#: Says in its state which of its two steps were done, and waits between them.
WAIT: Final = """\
const key = "w" + $args.n;
$state[key] = ($state[key] ?? 0) + 1;
await $ext.time.sleep($args.ms);
$state[key] += 1;
return $state[key];
"""
#: How long a handler waits at the most, in milliseconds.
_WAIT_MS: Final = 300
#: How a run may fail while workers are killed and stopped. It then left nothing behind, but for the steps
#: in front of those that its handler waited for.
_LOST: Final = ("WORKER_LOST", "TIMEOUT")
#: How long calls may go unanswered once nothing is disturbed any more, in seconds.
_PATIENCE_S: Final = 120.0
#: How often progress is told, in seconds.
_TELL_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class CrashOptions:
    """One run: how long, with what random choices, in which mode; rooms at a time, and calls in a room."""

    seconds: float | None
    seed: int
    durability: str = "process"
    rooms: int = 3
    calls: int = 3_000
    workers: int = 2
    #: How many kills of the gateway there have to be before it may end, and a client that resumed, whatever
    #: ``seconds`` says.
    gateway_kills: int = 0


class Crashes:
    """A run."""

    def __init__(self, system: System, options: CrashOptions) -> None:
        self.system = system
        self.options = options
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.ending = False
        self.disturbing = True
        self.ended: dict[str, dict[str, Any]] = {}
        self._numbers = 0

    def violate(self, text: str) -> None:
        """Notes what must not happen, and ends the run."""
        self.violations.append(text[:2_000])
        self.ending = True
        if len(self.violations) <= 10:
            sys.stderr.write(f"violation: {text[:2_000]}\n")

    def choices(self, name: str) -> random.Random:
        """The random choices of whoever has this name."""
        return random.Random(f"{self.options.seed} {name}")

    def number(self) -> int:
        """A number that is never used again."""
        self._numbers += 1
        return self._numbers

    async def get(self, path: str) -> Any:
        """GET of something that must be there, for as long as it takes to get an answer."""

        async def once() -> Any:
            async with httpx.AsyncClient(base_url=self.system.url, timeout=5, trust_env=False) as http:
                response = await http.get(path)
                if response.status_code >= 500:
                    raise httpx.TransportError(f"answered {response.status_code}")
                return response

        response = await persist(once, errors=(httpx.TransportError,))
        if response.status_code != 200:
            self.violate(f"GET {path}: {response.status_code} {response.text}")
            return {"state": {}, "seq": -1}
        return response.json()

    # -- the whole -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """All of it."""
        async with asyncio.TaskGroup() as tasks:
            disturbing = tasks.create_task(self._disturb())
            telling = tasks.create_task(self._tell())
            rooms = [tasks.create_task(self._rooms(f"room-{number}")) for number in range(self.options.rooms)]
            deadline = None if self.options.seconds is None else time.monotonic() + self.options.seconds
            while not self.ending:
                await asyncio.sleep(0.1)
                late = deadline is not None and time.monotonic() >= deadline
                self.ending |= late and self._enough
            self.disturbing = False
            await disturbing
            if not self.violations:
                await asyncio.wait(rooms, timeout=_PATIENCE_S)
            for room in rooms:
                if not room.done():
                    room.cancel()
                    self.violate(f"some calls were not answered within {_PATIENCE_S:g} s")
            telling.cancel()
        if not self.violations:
            await self._last_look()

    @property
    def _enough(self) -> bool:
        """Whether there was enough to speak of, however slow the machine is."""
        wanted = self.options.gateway_kills
        return self.counts["SIGKILL gateway"] >= wanted and (not wanted or self.counts["recovered"] > 0)

    async def _rooms(self, name: str) -> None:
        number = 0
        while not self.ending:
            number += 1
            room = Room(self, f"{name}-{number}", self.choices(f"{name}-{number}"))
            try:
                await room.run()
            except GapError as exc:
                self.violate(f"{room.id}: {exc}")
            except BaseExceptionGroup as group:
                gaps = group.subgroup(GapError)
                if gaps is None:
                    raise
                self.violate(f"{room.id}: {gaps.exceptions[0]}")
            self.counts["panels"] += 1

    async def _last_look(self) -> None:
        """After one more crash everything is as it was; after an orderly end nothing is wrong with what is
        stored.
        """
        self._kill_gateway()
        self.system.start_gateway(wait=False)
        for panel, seen in self.ended.items():
            now = await self.get(f"/panels/{panel}/state")
            if now != seen:
                self.violate(f"{panel}: was {str(seen)[:400]}, is {str(now)[:400]} after the last crash")
        gateway = self.system.the_gateway()
        code = await asyncio.to_thread(gateway.stop)
        if code:
            self.violate(f"the gateway ended with {code}: {gateway.tail(5)}")
        for finding in findings(self.system.folder / "data"):
            self.violate(finding)

    async def _tell(self) -> None:
        began_s = time.monotonic()
        while True:
            await asyncio.sleep(_TELL_S)
            sys.stderr.write(f"{time.monotonic() - began_s:5.0f} s  {summary(self.counts)}\n")

    # -- disturbances --------------------------------------------------------------------------------

    async def _disturb(self) -> None:
        choose = self.choices("disturbances")
        # panels and clients first: on a slow machine nothing but starts would be disturbed
        while not self.counts["fresh"] and self.disturbing:  # noqa: ASYNC110 - clients count, and set no event
            await asyncio.sleep(0.05)
        while self.disturbing:
            await asyncio.sleep(choose.uniform(0.05, 1.0))
            with contextlib.suppress(psutil.Error):
                await self._disturbance(choose)
            self._look_after_gateway()
        # whoever was killed has been started again by now
        await asyncio.sleep(0.5)
        self._look_after_gateway()

    async def _disturbance(self, choose: random.Random) -> None:
        kinds = (
            "gateway",
            "folding",
            "sandbox",
            "pool",
            "everything",
            "stop gateway",
            "stop folding",
            "stop sandbox",
        )
        kind = choose.choices(kinds, (6, 4, 4, 1, 1, 1, 2, 2))[0]
        which, how_long_s, early = choose.random(), choose.uniform(0.05, 2.0), choose.random()
        match kind:
            case "gateway":
                await self._crash_gateway(early, how_long_s)
            case "everything":
                self._kill_gateway()
                self._kill_pool()
                self.system.start_pool(processes=self.options.workers)
                await self._start_gateway(how_long_s, early)
            case "pool":
                self._kill_pool()
                self.system.start_pool(processes=self.options.workers)
            case "stop gateway":
                await self._stop(psutil.Process(self.system.the_gateway().pid), kind, how_long_s / 4)
            case _:
                found = self._folding() if kind.endswith("folding") else self.system.sandboxes()
                if not found:
                    return
                victim = found[int(which * len(found))]
                if kind.startswith("stop"):
                    await self._stop(victim, kind, how_long_s)
                else:
                    victim.kill()
                    self.counts[f"SIGKILL {kind}"] += 1

    async def _crash_gateway(self, early: float, how_long_s: float) -> None:
        self._kill_gateway()
        await self._start_gateway(how_long_s, early)

    async def _start_gateway(self, how_long_s: float, early: float) -> None:
        """Starts it. One in six is killed again while it starts."""
        self.system.start_gateway(wait=False)
        if early < 1 / 6:
            await asyncio.sleep(how_long_s / 2)
            self._kill_gateway()
            self.system.start_gateway(wait=False)
            self.counts["killed at start"] += 1
        gateway = self.system.the_gateway()
        # another process is waited for, and it tells nobody
        while gateway.running and "listening on" not in gateway.text:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self._look_after_gateway()
        await asyncio.sleep(how_long_s)

    def _look_after_gateway(self) -> None:
        gateway = self.system.the_gateway()
        if not gateway.running:
            self.violate(f"the gateway ended with {gateway.child.returncode}: {gateway.tail(5)}")
            self.disturbing = False

    def _kill_gateway(self) -> None:
        gateway = self.system.the_gateway()
        self.system.remember_children()
        if gateway.running:
            gateway.kill()
            self.counts["SIGKILL gateway"] += 1

    def _kill_pool(self) -> None:
        self.system.remember_children()
        sandboxes = self.system.sandboxes()
        self.system.pool.kill()
        for sandbox in sandboxes:
            with contextlib.suppress(psutil.Error):
                sandbox.kill()
        self.counts["SIGKILL pool"] += 1

    async def _stop(self, victim: psutil.Process, kind: str, seconds: float) -> None:
        victim.suspend()
        await asyncio.sleep(seconds)
        victim.resume()
        self.counts[kind.replace("stop", "SIGSTOP")] += 1

    def _folding(self) -> list[psutil.Process]:
        return [child for child in self.system.the_gateway().children() if _is_folding(child)]


class Room:
    """One panel from its making to the comparison at its end."""

    def __init__(self, crashes: Crashes, panel: str, choose: random.Random) -> None:
        self.crashes = crashes
        self.id = panel
        self.choose = choose
        self.calls: list[Call] = []
        self.clients = [
            self._client(Replica()),
            self._client(Replica(), cuts=True),
            self._client(Replica(["state:count", "event:ran*"]), cuts=True),
            self._client(Replica(["state:count"]), cuts=True),
            self._client(Replica(), cuts=True, voids=True),
        ]

    async def run(self) -> None:
        """All of it. Raises ``GapError``."""
        await self._make()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(client.run()) for client in self.clients]
            await tasks.create_task(self._call_over_http())
            # so many places take part in this that an event would have to be set in all of them
            while any(client.unanswered for client in self.clients) or self._more():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await self._compare()
            for client in self.clients:
                client.leaving = True
            await asyncio.wait(running)

    async def _make(self) -> None:
        tools = [
            {"name": "append", "handler": APPEND},
            {"name": "count", "handler": {"language": "wat", "source": COUNTER_WAT}},
            {
                "name": "wait",
                "handler": WAIT,
                "capabilities": ["state:read:*", "state:write:*", "ext:time.sleep"],
            },
        ]
        body = {"id": self.id, "kind": "crash", "tools": tools, "initialState": {"n": 0, "count": 0}}

        async def once() -> None:
            async with httpx.AsyncClient(
                base_url=self.crashes.system.url, timeout=30, trust_env=False
            ) as http:
                response = await http.post("/panels", json=body)
                # 409: it was made, and the answer was lost
                if response.status_code not in (201, 409):
                    raise httpx.TransportError(response.text)

        await persist(once, errors=(httpx.TransportError,))

    def _client(self, replica: Replica, *, cuts: bool = False, voids: bool = False) -> ResumingClient:
        return ResumingClient(
            lambda: self.crashes.system.socket_url(self.id),
            self._next_call,
            window=self.choose.choice((1, 4, 16)),
            replica=replica,
            lifetime_s=lambda: self.choose.uniform(0.02, 2.0) if cuts else None,
            void=lambda: voids and self.choose.random() < 0.3,
            counts=self.crashes.counts,
        )

    def _more(self) -> bool:
        return len(self.calls) < self.crashes.options.calls and not self.crashes.ending

    def _next_call(self) -> Call | None:
        if not self._more():
            return None
        number = self.crashes.number()
        (tool,) = self.choose.choices(("append", "count", "wait"), weights=(60, 30, 10))
        args = {"by": 1} if tool == "count" else {"n": number}
        if tool == "wait":
            args["ms"] = self.choose.randrange(_WAIT_MS)
        call = Call(f"key-{number}", tool, args)
        self.calls.append(call)
        return call

    async def _call_over_http(self) -> None:
        while (call := self._next_call()) is not None:

            async def once(call: Call = call) -> None:
                async with httpx.AsyncClient(
                    base_url=self.crashes.system.url, timeout=10, trust_env=False
                ) as http:
                    call.sent += 1
                    response = await http.post(
                        f"/panels/{self.id}/trigger/{call.tool}",
                        json={"args": call.args},
                        headers={"Idempotency-Key": call.key},
                    )
                if response.status_code == 202:  # it waits for long: whoever asks again is told the end
                    raise httpx.TransportError("it waits")
                body = response.json()
                if "error" in body and body["error"]["code"] in RETRIED:
                    raise httpx.TransportError(body["error"]["code"])
                call.answer = {"type": "ERROR", **body["error"]} if "error" in body else body

            await persist(once, errors=(httpx.TransportError,))
            self.crashes.counts["answers"] += 1
            await asyncio.sleep(0.02)

    # -- the comparison ------------------------------------------------------------------------------

    async def _compare(self) -> None:
        crashes = self.crashes
        seen = await crashes.get(f"/panels/{self.id}/state")
        crashes.ended[self.id] = seen
        for problem in self._problems(seen["state"], seen["seq"]):
            crashes.violate(f"{self.id}: {problem}")
        for client in self.clients:
            await self._hear_out(client)
            for problem in client_problems(client.replica, seen["state"], seen["seq"]):
                crashes.violate(f"{self.id}, a client of {client.replica.topics or 'everything'}: {problem}")
        epochs = {client.replica.epoch for client in self.clients}
        if len(epochs) != 1:
            crashes.violate(f"{self.id}: expected one epoch, got {epochs}")

    async def _hear_out(self, client: ResumingClient) -> None:
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, TimeoutError):
                return await asyncio.wait_for(client.barrier(), 5)

    def _problems(self, state: dict[str, Any], seq: int) -> Iterator[str]:
        """What is wrong with the server's state, after all calls have been answered."""
        appended: dict[str, int] = {}
        counted: list[int] = []
        steps = 0
        for call in self.calls:
            answer = call.answer
            if answer is None:
                yield f"{call.key} was never answered"
            elif answer["type"] == "RESULT":
                value = answer["result"]["returnValue"]
                if call.tool == "count":
                    counted.append(value)
                elif call.tool == "wait":
                    steps += 2
                    yield from _steps_problems(call, state, 2)
                else:
                    appended[f"k{call.args['n']}"] = value  # type: ignore[index]
            elif answer.get("details", {}).get("reason") in _LOST:
                self.crashes.counts["lost to workers"] += 1
                if call.tool == "wait":
                    done = answer["details"].get("steps", 0)
                    steps += done
                    yield from _steps_problems(call, state, done)
            else:
                yield f"{call.key} was answered {answer}"
        ran = {key: value for key, value in state.items() if key.startswith("k")}
        if "twice" in state:
            yield f"number {state['twice']} ran twice"
        if ran != appended:
            missing = {key: value for key, value in appended.items() if ran.get(key) != value}
            extra = {key: value for key, value in ran.items() if key not in appended}
            yield f"answered and not there: {missing}; there and not answered: {extra}"
        if sorted(ran.values()) != list(range(1, state["n"] + 1)):
            yield "expected each place once"
        if sorted(counted) != list(range(1, state["count"] + 1)):
            yield f"expected {state['count']} answers of the counter, each once, got {sorted(counted)}"
        commits = len(appended) + len(counted) + steps
        if seq != commits:
            yield f"expected version {commits}, got {seq}"
        self.crashes.counts["ran"] += commits
        self.crashes.counts["steps of handlers that wait"] += steps
        self.crashes.counts["sent twice"] += sum(call.sent > 1 for call in self.calls)


def _steps_problems(call: Call, state: dict[str, Any], done: int) -> Iterator[str]:
    found = state.get(f"w{call.args['n']}", 0)  # type: ignore[index]
    if found != done:
        yield f"expected {done} steps of {call.key}, got {found}"


def client_problems(replica: Replica, state: dict[str, Any], seq: int) -> Iterator[str]:
    """What is wrong with what a client has heard, once it has heard everything."""
    partial = replica.topics is not None
    if replica.told > seq or (not partial and replica.position != seq):
        yield f"expected version {seq}, got {replica.position}"
    for key in ("count",) if partial else state.keys() | replica.state.keys():
        if replica.state.get(key) != state.get(key):
            yield f"expected {key} to be {state.get(key)}, got {replica.state.get(key)}"
    heard = [payload for _, name, payload in replica.events if name == "ran"]
    places = [state.get(f"k{number}", 0) for number in heard]
    first = places[0] if places else 1
    if places != list(range(first, first + len(places))):
        yield f"expected each event once, and in order, got places {places}"
    if partial and "event:ran*" not in (replica.topics or ()):
        return
    if (
        replica.unbroken
        and not (places and places[0] == 1 and places[-1] == state["n"])
        and not _came_late(replica)
    ):
        yield f"expected all events up to {state['n']}, got places {places[:3]} to {places[-3:]}"


def _came_late(replica: Replica) -> bool:
    """Whether it first connected when something had run already."""
    return not replica.events or replica.began > 0


def findings(data_dir: Path) -> list[str]:
    """What ``verify`` says of a data directory that nobody uses."""
    found = verify(
        data_dir / "panels.db",
        tail=lambda position: read_log(data_dir / "log", after=position),
        progress=lambda done, total: None,
    )
    return [f"{finding.where}: {finding.problem}" for finding in found]


def summary(counts: dict[str, int]) -> str:
    """Counts in a line, by name."""
    return "  ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def crash(options: CrashOptions) -> Crashes:
    """One run with a system of its own. The caller looks at ``violations``."""
    arguments = ("--durability", options.durability, "--max-connections-per-subject", "1000")
    with System(gateway=arguments, auth=False) as system:
        system.start(processes=options.workers)
        crashes = Crashes(system, options)
        asyncio.run(crashes.run())
        for defect in system.defects():
            crashes.violations.append(defect)
        if crashes.violations:
            kept = Path("build") / f"crash-{options.seed}"
            _keep(system, kept)
            sys.stderr.write(f"logs and data: {kept}\n")
    return crashes


def _keep(system: System, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        system.folder, folder, ignore=shutil.ignore_patterns("*.sock", "cache", "secret"), dirs_exist_ok=True
    )


def _is_folding(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("journal.folder" in word for word in process.cmdline())
    return False


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="how long; without it until a violation or Ctrl-C"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of the random choices")
    parser.add_argument(
        "--durability", choices=("process", "power"), default="process", help="mode (process)"
    )
    parser.add_argument("--rooms", type=int, default=3, metavar="N", help="panels at a time (3)")
    parser.add_argument("--calls", type=int, default=3_000, metavar="N", help="calls in a panel (3,000)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="sandbox processes (2)")
    parser.add_argument(
        "--power-states",
        type=int,
        metavar="N",
        help="instead: record a gateway in mode power, and open N of the states that a loss of power can leave",
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "big")
    sys.stderr.write(f"seed {seed}\n")
    # Ctrl-C ends a run as a violation would: with all processes gone
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    if options.power_states is not None:
        from tests.support.crash_states import explore

        report = explore(states=options.power_states, seed=seed)
        print(f"seed {seed}  {summary(report.counts)}  violations {len(report.violations)}")
        return 1 if report.violations else 0
    crashes = crash(
        CrashOptions(
            seconds=None if options.minutes is None else options.minutes * 60,
            seed=seed,
            durability=options.durability,
            rooms=options.rooms,
            calls=options.calls,
            workers=options.workers,
        )
    )
    print(f"seed {seed}  {summary(crashes.counts)}  violations {len(crashes.violations)}")
    return 1 if crashes.violations else 0


if __name__ == "__main__":
    sys.exit(main())
