"""The clients as a program that tries them sees them: one in this process, and one in Node."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from panels_client import CallError, Options, Panel, connect

DRIVER: Final = Path(__file__).with_name("client_driver.mjs")
#: How much faster the clocks of the client in TypeScript run: it has no options for its times.
SPEED: Final = 60
FAST: Final = Options(
    backoff_initial_s=0.005,
    backoff_max_s=0.05,
    connect_timeout_s=2.0,
    ping_after_s=0.15,
    pong_timeout_s=0.15,
    proxy=None,
)
#: One line of the driver holds one state at most.
MAX_LINE_BYTES: Final = 1024 * 1024

Mint = Callable[[], str]
Heard = Callable[[str, Any], None]


class RefusedError(Exception):
    """A call ended with an error. ``ran`` is what the client says: False, True, or None where it cannot
    know.
    """

    def __init__(self, code: str, *, ran: bool | None) -> None:
        super().__init__(f"{code}, ran: {ran}")
        self.ran = ran


class Driven(Protocol):
    """A client of one panel."""

    async def call(self, tool: str, args: Any) -> Any:
        """What the handler returned. Raises ``RefusedError``."""
        ...

    async def state(self) -> dict[str, Any]:
        """Its state."""
        ...


class InPython:
    """The client in Python. ``heard`` is told of events (the payload) and notices (the kind)."""

    def __init__(self, panel: Panel, heard: Heard) -> None:
        self._panel = panel
        panel.on("*", lambda event: heard("event", event.payload))
        panel.on_notice(lambda notice: heard("notice", notice.kind))

    async def call(self, tool: str, args: Any) -> Any:
        """See ``Driven``."""
        try:
            return (await self._panel.call(tool, args, timeout=None)).value
        except CallError as exc:
            raise RefusedError(exc.code, ran=exc.ran) from exc

    async def state(self) -> dict[str, Any]:
        """See ``Driven``."""
        return dict(self._panel.state)


class InNode:
    """A client in TypeScript, one of those of a ``NodeProcess``."""

    def __init__(self, process: NodeProcess, name: str) -> None:
        self._process = process
        self._name = name

    async def call(self, tool: str, args: Any) -> Any:
        """See ``Driven``."""
        return await self._process.ask({"do": "call", "client": self._name, "tool": tool, "args": args})

    async def state(self) -> dict[str, Any]:
        """See ``Driven``."""
        state: dict[str, Any] = await self._process.ask({"do": "state", "client": self._name})
        return state


class NodeProcess:
    """A process of ``client_driver.mjs``."""

    def __init__(self, child: asyncio.subprocess.Process, mint: Mint) -> None:
        self._child = child
        self._mint = mint
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._heard: dict[str, Heard] = {}

    def connect(self, name: str, url: str, panel: str, heard: Heard) -> InNode:
        """Makes a client."""
        self._heard[name] = heard
        self._order({"do": "connect", "client": name, "url": url, "panel": panel})
        return InNode(self, name)

    async def ask(self, order: dict[str, Any]) -> Any:
        """The value that is reported for an order. Raises ``RefusedError``."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._order({**order, "id": number})
        return await answer

    async def read(self) -> None:
        """Takes what the process reports until it ends; what is still asked for fails then."""
        assert self._child.stdout is not None
        async for line in self._child.stdout:
            self._take(json.loads(line))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ConnectionError(f"node ended with {await self._child.wait()}"))

    def _take(self, report: dict[str, Any]) -> None:
        if "ask" in report:
            self._order({"do": "token", "id": report["id"], "token": self._mint()})
        elif "id" in report:
            answer = self._asked.pop(report["id"])
            if "code" in report:
                answer.set_exception(RefusedError(report["code"], ran=report["ran"]))
            else:
                answer.set_result(report["value"])
        elif "event" in report:
            self._heard[report["client"]]("event", report["event"]["payload"])
        elif "notice" in report:
            self._heard[report["client"]]("notice", report["notice"])

    def _order(self, order: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order).encode() + b"\n")


@contextlib.asynccontextmanager
async def in_python(url: str, panel: str, mint: Mint, heard: dict[str, Heard]) -> AsyncIterator[list[Driven]]:
    """A client in Python for each name of ``heard``."""

    async def token() -> str:
        return mint()

    async with contextlib.AsyncExitStack() as stack:
        made: list[Driven] = []
        for hear in heard.values():
            client = connect(url, panel=panel, token=token, options=FAST)
            made.append(InPython(await stack.enter_async_context(client), hear))
        yield made


@contextlib.asynccontextmanager
async def in_node(url: str, panel: str, mint: Mint, heard: dict[str, Heard]) -> AsyncIterator[list[Driven]]:
    """The same in TypeScript, all in one process. The package has to be built."""
    child = await asyncio.create_subprocess_exec(
        "node",
        str(DRIVER),
        str(SPEED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
    )
    process = NodeProcess(child, mint)
    reading = asyncio.ensure_future(process.read())
    try:
        yield [process.connect(name, url, panel, hear) for name, hear in heard.items()]
        assert child.stdin is not None
        child.stdin.close()
        async with asyncio.timeout(20):
            await reading
            if await child.wait() != 0:
                raise ConnectionError(f"expected node to end well, got {child.returncode}")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        reading.cancel()
