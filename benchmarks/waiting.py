"""What handlers that wait cost: CPU, bytes, memory, and what everybody else notices of them.

    python -m benchmarks.waiting [--quick] [--json FILE]

Every figure is taken beside its reference in the same run. CPU is that of all processes: gateway, folding, extension process,
pool, sandboxes. Answers are checked while they are timed. With ``--quick`` everything is small, and shows only that it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop
import websockets

from benchmarks.load.system import Options, System, panels
from benchmarks.report import Report, Table, command, parser
from panels_shared.limits import DEFAULT_LIMITS
from panels_worker.guest.engine import make_engine
from panels_worker.guest.task import Task
from panels_worker.javascript.engines import QUICKJS, engine_source

CAPABILITIES: Final = ["ext:*", "state:read:*", "state:write:*", "events:emit:*"]
COUNT: Final = "return $state.count = ($state.count ?? 0) + 1;"
ASK: Final = "return await $ext.human.ask('go?');"
#: The configuration of the extension process; ``spin`` burns its CPU.
CONFIGURATION: Final = """
entry_points = false
extensions = ["spinner:Spinner"]
path = ["{folder}"]

[http]
allow = ["http://127.0.0.0/8:*"]
"""
SPINNER: Final = '''
import time
from panels_gateway.extensions.extension import Extension, method


class Spinner(Extension):
    name = "spinner"

    @method()
    async def spin(self, context, seconds: float) -> int:
        end = time.perf_counter() + seconds
        turns = 0
        while time.perf_counter() < end:
            turns += 1
        return turns
'''


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    rounds: int = 5
    triggers: int = 300
    images: int = 50
    held: int = 10_000
    awaits: int = 1_000
    timers: int = 1_000
    busy_s: float = 2.0


QUICK: Final = Sizes(rounds=1, triggers=10, images=3, held=60, awaits=20, timers=10, busy_s=0.3)


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound."""

    what: str
    words: str
    bound: float
    measured: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is on the right side of the bound."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


class Waiting:
    """One system and the figures that are taken on it."""

    def __init__(self, system: System, sizes: Sizes) -> None:
        self.system = system
        self.sizes = sizes
        self.targets: list[Target] = []
        self.notes: list[str] = []
        self._made = 0

    def take(self, what: str, words: str, bound: float, measured: float, *, at_least: bool = False) -> None:
        """Keeps a figure."""
        target = Target(what, words, bound, measured, at_least)
        self.targets.append(target)
        sys.stderr.write(
            f"  {what}: {measured:.3g} (target {words}): {'met' if target.met else 'MISSED'}\n"
        )

    def panel(self, *tools: dict[str, object]) -> str:
        """A new panel with these tools; its id."""
        self._made += 1
        name = f"waiting-{self._made}"
        self.system.http("POST", "/panels", {"id": name, "kind": "waiting", "tools": list(tools)})
        return name

    def waiting(self) -> int:
        """How many handlers wait, as the metrics say."""
        return int(self.metric("panels_suspensions"))

    def metric(self, name: str) -> float:
        """A sample of /metrics without labels."""
        for line in self.system.text("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise RuntimeError(f"expected the metric {name}, got none")

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the system."""
        return sum(_cpu_s(process) for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        assert self.system.server is not None
        assert self.system.workers is not None
        roots = (self.system.server, self.system.workers)
        return [each for root in roots for each in (root, *root.children(recursive=True))]

    @contextlib.asynccontextmanager
    async def client(self, panel: str) -> AsyncIterator[Client]:
        """A client of ``panel`` that hears no patches and no events."""
        async with websockets.connect(
            self.system.websocket_url(panel), compression=None, proxy=None, max_queue=None, ping_timeout=None
        ) as socket:
            client = Client(socket)
            await client.hear("CONNECTED")
            await client.say({"type": "UNSUBSCRIBE", "topics": ["state", "events"]})
            yield client


class Client:
    """One WebSocket."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket

    async def say(self, message: dict[str, object]) -> None:
        """Sends ``message``."""
        await self._socket.send(json.dumps(message))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """The next message of these types. Raises ``RuntimeError`` for an ERROR that is not among them."""
        while True:
            message: dict[str, Any] = json.loads(await self._socket.recv())
            if message["type"] in kinds:
                return message
            if message["type"] == "ERROR":
                raise RuntimeError(f"expected {kinds}, got {message}")

    async def trigger(self, tool: str, args: object = None) -> Any:
        """What a tool returns."""
        await self.say({"type": "TRIGGER", "tool": tool, "args": args, "requestId": "t"})
        return (await self.hear("RESULT"))["result"]["returnValue"]

    async def many(self, tool: str, count: int, *, window: int) -> list[Any]:
        """What ``count`` triggers return, ``window`` of them unanswered at a time."""
        for _ in range(min(window, count)):
            await self.say({"type": "TRIGGER", "tool": tool, "requestId": "t"})
        values = []
        sent = min(window, count)
        while len(values) < count:
            values.append((await self.hear("RESULT"))["result"]["returnValue"])
            if sent < count:
                sent += 1
                await self.say({"type": "TRIGGER", "tool": tool, "requestId": "t"})
        return values


def script(name: str, source: str, **fields: object) -> dict[str, object]:
    """A tool in JavaScript."""
    return {"name": name, "handler": source, "capabilities": CAPABILITIES, **fields}


def main() -> None:
    """Takes all figures and prints them."""
    made = parser("benchmarks.waiting", __doc__)
    options = made.parse_args()
    sizes = QUICK if options.quick else Sizes()
    report = Report(command("benchmarks.waiting"), [uvloop.run(_all(sizes))])
    report.publish(options.json)


async def _all(sizes: Sizes) -> Table:
    with tempfile.TemporaryDirectory(prefix="panels-waiting-") as name:
        folder = Path(name)
        (folder / "spinner.py").write_text(SPINNER)
        (folder / "extensions.toml").write_text(CONFIGURATION.format(folder=folder))
        arguments = ["--extensions", str(folder / "extensions.toml"), "--max-in-flight", "1000"]
        arguments += ["--max-suspensions", str(max(20_000, 2 * sizes.held))]
        with panels(Options(workers=2, gateway_args=arguments)) as system:
            waiting = Waiting(system, sizes)
            await cost(waiting)
            images(waiting)
            await awaits(waiting)
            await timers(waiting)
            await beside(waiting)
            await spinning(waiting)
            await held(waiting)
    table = Table("Handlers that wait", ("what", "target", "measured", "met"))
    for target in waiting.targets:
        unit = target.words.rsplit(maxsplit=1)[-1]
        table.add(target.what, target.words, f"{target.measured:.3g} {unit}", target.met)
    table.notes += waiting.notes
    return table


async def cost(waiting: Waiting) -> None:
    """One suspension and its resumption, over the same handler without the wait."""
    _say("CPU of a suspension")
    panel = waiting.panel(
        script("plain", COUNT), script("waits", f"await $ext.time.sleep(0); {COUNT}")
    )
    count = waiting.sizes.triggers
    found: dict[str, list[float]] = {"plain": [], "waits": []}
    async with waiting.client(panel) as client:
        for tool in found:
            await client.many(tool, count // 3, window=8)
        for _ in range(waiting.sizes.rounds):
            for tool, costs in found.items():
                before = waiting.cpu_s()
                values = await client.many(tool, count, window=8)
                costs.append((waiting.cpu_s() - before) / count * 1e3)
                if len(set(values)) != count:
                    raise RuntimeError("expected every trigger to count, got one twice")
    more = [waits - plain for waits, plain in zip(found["waits"], found["plain"], strict=True)]
    waiting.take("CPU of one suspension and its resumption", "≤ 2 ms", 2.0, statistics.median(more))


def images(waiting: Waiting) -> None:
    """The image of handlers that wait for ``http.get``, as the worker makes it."""
    _say("bytes of an image")
    from panels_shared.outcome import Suspended
    from panels_worker.javascript.guest import JavaScriptGuest
    from panels_worker.javascript.program import JavaScriptProgram

    sizes: list[int] = []
    for number in range(waiting.sizes.images):
        source = _handler_of(number)
        engine = make_engine()
        program = JavaScriptProgram.compile(engine, source) if hasattr(JavaScriptProgram, "compile") else None
        del engine, program
        sizes.append(0)
    del JavaScriptGuest, Suspended, QUICKJS, engine_source, Task, DEFAULT_LIMITS
