"""What handlers that wait cost: CPU, bytes, memory, and what everybody else notices of them.

    python -m benchmarks.waiting [--quick] [--json FILE]

Every figure is taken beside its reference in the same run. CPU is that of all processes: gateway, folding,
extension process, pool, sandboxes. Answers are checked while they are timed. With ``--quick`` everything is
small, and shows only that it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import uvloop
import websockets

from benchmarks.load.system import Options, System, panels
from benchmarks.lone_sandbox import Engines
from benchmarks.report import Report, Table, command, parser
from panels_shared.limits import Limits
from panels_shared.outcome import Suspended
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.task import Task

RESULTS: Final = Path(__file__).with_name("WAITING.md")
CAPABILITIES: Final = ["ext:*", "state:read:*", "state:write:*", "events:emit:*"]
COUNT: Final = "return $state.count = ($state.count ?? 0) + 1;"
ASK: Final = "return await $ext.human.ask('go?');"
#: Handlers of some kinds that wait for a server.
GETS: Final = (
    """const r = await $ext.http.get("https://example.org/"); return r.status;""",
    """const seen = $state.items.map((item) => item.id);
       const r = await $ext.http.get("https://example.org/");
       return seen.length + r.status;""",
    """class Order { #n = $args.n; total() { return this.#n * 2; } }
       const order = new Order();
       const r = await $ext.http.get(`https://example.org/${order.total()}`);
       return [order.total(), r.data];""",
    """const urls = [1, 2, 3].map((n) => `https://example.org/${n}`);
       const all = await Promise.all(urls.map((url) => $ext.http.get(url)));
       return all.map((r) => r.status);""",
)
#: The configuration of the extension process; ``spin`` burns its CPU.
CONFIGURATION: Final = """
entry_points = false
extensions = ["spinner:Spinner"]
path = ["{folder}"]

[http]
allow = ["http://127.0.0.0/8:*"]
"""
SPINNER: Final = """
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
"""


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
        sys.stderr.write(f"  {what}: {measured:.3g} (target {words}): {'met' if target.met else 'MISSED'}\n")

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
        values: list[Any] = []
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
    made.add_argument("--results", action="store_true", help=f"write {RESULTS.name}, beside this file, too")
    options = made.parse_args()
    sizes = QUICK if options.quick else Sizes()
    report = Report(command("benchmarks.waiting"), [uvloop.run(_all(sizes))])
    report.publish(options.json)
    if options.results:
        RESULTS.write_text(document(report))


def document(report: Report) -> str:
    """``WAITING.md``."""
    (table,) = report.tables
    head = [
        "# Handlers that wait",
        "",
        "What `python -m benchmarks.waiting --results` measured last; nothing here is typed by hand. Client, gateway, extension",
        "process and workers share the machine's cores.",
        "",
        *(f"- {line}" for line in report.head().splitlines()),
        f"- `{report.command}`, {report.date}",
        "",
    ]
    return "\n".join([*head, table.markdown(), "", *table.notes, ""])


async def _all(sizes: Sizes) -> Table:
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="panels-waiting-") as name:
        folder = Path(name)
        (folder / "spinner.py").write_text(SPINNER)
        (folder / "extensions.toml").write_text(CONFIGURATION.format(folder=folder))
        arguments = ["--extensions", str(folder / "extensions.toml"), "--max-in-flight", "1000"]
        arguments += ["--max-suspensions", str(max(20_000, 2 * sizes.held))]
        with panels(Options(workers=2, gateway_args=arguments)) as system:
            waiting = Waiting(system, sizes)
            # first, while nothing that others left free can hide what it needs
            await held(waiting)
            await cost(waiting)
            images(waiting)
            await awaits(waiting)
            await timers(waiting)
            await beside(waiting)
            await spinning(waiting)
    table = Table("Handlers that wait", ("what", "target", "measured", "met"))
    for target in waiting.targets:
        unit = target.words.rsplit(maxsplit=1)[-1]
        table.add(target.what, target.words, f"{target.measured:.3g} {unit}", target.met)
    table.notes += waiting.notes
    table.notes.append(
        f"The load average was {load_before:.1f} before the run and {os.getloadavg()[0]:.1f} at its end."
    )
    return table


async def cost(waiting: Waiting) -> None:
    """One suspension and its resumption, over the same handler without the wait."""
    _say("CPU of a suspension")
    panel = waiting.panel(script("plain", COUNT), script("waits", f"await $ext.time.sleep(0); {COUNT}"))
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
    """The images of handlers that wait for ``http.get``, as a sandbox makes them."""
    _say("bytes of an image")
    engines = Engines()
    found = []
    for number in range(waiting.sizes.images):
        task = Task(
            tool="get",
            args=b'{"n":%d}' % number,
            scope=b"{}",
            now_ms=1_760_000_000_000.0,
            seed=number,
            limits=Limits(),
            capabilities=Capabilities.of(tuple(CAPABILITIES)),
            state={"items": json.dumps([{"id": each, "text": "x" * 20} for each in range(number)]).encode()},
        )
        outcome = engines.javascript(GETS[number % len(GETS)]).run(task).outcome
        if not isinstance(outcome, Suspended):
            raise RuntimeError(f"expected a handler that waits, got {outcome}")
        found.append(len(outcome.image))
    waiting.take(
        "image of a handler that waits for http.get, median", "≤ 32 kB", 32.0, statistics.median(found) / 1e3
    )
    waiting.notes.append(f"The largest of {len(found)} images has {max(found) / 1e3:.1f} kB.")


async def awaits(waiting: Waiting) -> None:
    """What the last awaits of one handler cost, against its first ones."""
    _say("the thousandth await")
    total = waiting.sizes.awaits
    part = max(1, total // 10)
    source = f"for (let n = 0; n < {total}; n++) await $ext.time.sleep(0); return {total};"
    panel = waiting.panel(script("long", source))
    ratios = []
    async with waiting.client(panel) as client:
        for _ in range(waiting.sizes.rounds):
            await client.say({"type": "TRIGGER", "tool": "long", "requestId": "t"})
            costs = []
            for _ in range(10):
                before = waiting.cpu_s()
                for _ in range(part):
                    await client.hear("PROGRESS")
                costs.append(waiting.cpu_s() - before)
            await client.hear("RESULT")
            ratios.append(costs[-1] / max(costs[0], 1e-3))
    waiting.take(
        "cost of the last tenth of the awaits over the first", "≤ 1.2 ×", 1.2, statistics.median(ratios)
    )


async def timers(waiting: Waiting) -> None:
    """Many timers that are due at once, and when the client has heard of the last of them."""
    _say("timers due in one second")
    count = waiting.sizes.timers
    panels_ = max(1, count // 50)
    each = count // panels_
    interval = 10_000 if count >= 1_000 else 1_500
    trigger = {"type": "interval", "ms": interval}
    source = "$state[$args.dueMs + ':' + Math.random()] = $args.dueMs;"
    names = [
        waiting.panel(*(script(f"tick-{number}", source, trigger=trigger) for number in range(each)))
        for _ in range(panels_)
    ]

    async def last_of(panel: str) -> tuple[int, float]:
        heard, due_ms, late_s = 0, 0, 0.0
        url = waiting.system.websocket_url(panel)
        async with websockets.connect(url, compression=None, proxy=None, max_queue=None) as socket:
            while heard < each:
                message = json.loads(await socket.recv())
                if message["type"] == "PATCH":
                    for mutation in message["mutations"]:
                        heard += 1
                        due_ms = mutation["value"]
                        late_s = max(late_s, time.time() - due_ms / 1000)
        return due_ms, late_s

    found = await asyncio.gather(*map(last_of, names))
    spread_s = (max(due for due, _ in found) - min(due for due, _ in found)) / 1000
    for name in names:
        waiting.system.http("DELETE", f"/panels/{name}")
    waiting.take(f"{panels_ * each:,} timers, the latest", "≤ 1 s", 1.0, max(late for _, late in found))
    waiting.notes.append(f"The timers were due within {spread_s:.2f} s; late is when a client heard of it.")


async def beside(waiting: Waiting) -> None:
    """Triggers of a panel of which a hundred handlers wait, against one of which none does."""
    _say("triggers beside a hundred that wait")
    sizes = waiting.sizes
    tools = (script("count", COUNT), script("ask", ASK))
    empty, full = waiting.panel(*tools), waiting.panel(*tools)
    ratios = []
    async with waiting.client(empty) as one, waiting.client(full) as other:
        asking = min(100, sizes.held)
        for _ in range(asking):
            await other.say({"type": "TRIGGER", "tool": "ask", "requestId": "t"})
        for _ in range(asking):
            await other.hear("PROGRESS")
        for _ in range(sizes.rounds):
            rates = []
            for client in (one, other):
                began = time.perf_counter()
                await client.many("count", sizes.triggers, window=8)
                rates.append(sizes.triggers / (time.perf_counter() - began))
            ratios.append(rates[1] / rates[0])
    waiting.system.http("DELETE", f"/panels/{full}")
    waiting.take(
        "triggers/s of a panel while 100 of its handlers wait, against none", "≥ 0.95 ×", 0.95,
        statistics.median(ratios), at_least=True,
    )  # fmt: skip


async def spinning(waiting: Waiting) -> None:
    """How long others wait while an extension burns the CPU of its process."""
    _say("an extension that burns CPU")
    seconds = waiting.sizes.busy_s
    panel = waiting.panel(script("count", COUNT))
    burning = waiting.panel(script("burn", f"return await $ext.spinner.spin({seconds});"))
    ratios = []
    async with waiting.client(panel) as client, waiting.client(burning) as burner:
        await client.many("count", 20, window=1)
        for _ in range(waiting.sizes.rounds):
            quiet = await _p99_ms(client, seconds)
            await burner.say({"type": "TRIGGER", "tool": "burn", "requestId": "t"})
            await burner.hear("PROGRESS")
            busy = await _p99_ms(client, seconds)
            await burner.hear("RESULT")
            ratios.append(busy / quiet)
    waiting.take(
        "p99 of other panels while an extension burns CPU", "≤ 1.2 ×", 1.2, statistics.median(ratios)
    )


async def _p99_ms(client: Client, seconds: float) -> float:
    found = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await client.trigger("count")
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.quantiles(found, n=100)[98]


async def held(waiting: Waiting) -> None:
    """Memory with very many handlers that wait, and how fast they go on when all are answered."""
    count = waiting.sizes.held
    _say(f"{count:,} handlers that wait")
    each = min(100, count)
    names = [waiting.panel(script("ask", ASK)) for _ in range(count // each)]
    before = waiting.waiting()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(waiting.client(name)) for name in names]
        for client in clients[:5]:  # sandboxes that have run nothing yet grow at first, whoever waits
            await _answer(client, await _ask(client, each))
        rss, workers = waiting.system.server_rss_bytes(), waiting.system.worker_rss_bytes()
        open_questions = await asyncio.gather(*(_ask(client, each) for client in clients))
        if waiting.waiting() - before != count // each * each:
            raise RuntimeError(f"expected {count} handlers that wait, got {waiting.waiting() - before}")
        await _folded(waiting)
        grown = waiting.system.server_rss_bytes() - rss
        waiting.take(f"{count:,} that wait: memory of the gateway", "≤ 50 MB", 50.0, grown / 1e6)
        more = waiting.system.worker_rss_bytes() / workers
        waiting.take(f"{count:,} that wait: memory of the workers, against before", "≤ 1.1 ×", 1.1, more)
        began = time.perf_counter()
        cpu_s = waiting.cpu_s()
        await asyncio.gather(
            *(_answer(client, names) for client, names in zip(clients, open_questions, strict=True))
        )
        seconds = time.perf_counter() - began
        waiting.take("resumptions/s", "≥ 500 /s", 500.0, count // each * each / seconds, at_least=True)
        busy = (waiting.cpu_s() - cpu_s) / seconds
        waiting.notes.append(f"Resuming used {busy:.2f} cores of the machine, without the client's share.")


async def _ask(client: Client, count: int) -> list[str]:
    for _ in range(count):
        await client.say({"type": "TRIGGER", "tool": "ask", "requestId": "t"})
    return [(await client.hear("PROGRESS"))["suspensionId"] for _ in range(count)]


async def _answer(client: Client, suspensions: Sequence[str]) -> None:
    for number, name in enumerate(suspensions):
        await client.say({"type": "ANSWER", "suspensionId": name, "value": number})
    values = [(await client.hear("RESULT"))["result"]["returnValue"] for _ in suspensions]
    if sorted(values) != list(range(len(suspensions))):
        raise RuntimeError("expected each handler to return its own answer")


async def _folded(waiting: Waiting) -> None:
    """Returns once the journal has folded everything: images are not kept in memory any more."""
    while waiting.metric("panels_journal_lag_batches") > 0:  # noqa: ASYNC110 - another process says so
        await asyncio.sleep(0.1)


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
