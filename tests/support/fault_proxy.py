"""A proxy that does to connections what networks do, between any client and any server of the protocol.

    python -m tests.support.fault_proxy ws://127.0.0.1:3001 --seed 1 --every 0.05

It prints its own URL, and then does harm until it is interrupted. A test calls ``FaultProxy.harm`` itself.
The faults:

    cut         both sockets end at once
    torn        half of what comes next passes, and then both end
    stall       nothing passes for a while, and then all of it does
    delay       what comes next passes late
    half_open   the server's socket ends, and the client's stays open and says nothing
    duplicate   what the client sends on its next connection is sent on a second one, too
    refuse      the next connection is accepted and ends at once
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

Fault = Literal["cut", "torn", "stall", "delay", "half_open", "duplicate", "refuse"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
CHUNK_BYTES: Final = 65_536


@dataclass(eq=False)
class _Pair:
    """One connection through the proxy. ``passing`` is clear while it is stalled."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    copy: asyncio.StreamWriter | None
    passing: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    torn: bool = False
    halved: bool = False

    def cut(self) -> None:
        for writer in (self.client, self.server, self.copy):
            if writer is not None:
                writer.transport.abort()
        self.passing.set()

    def halve(self) -> None:
        self.halved = True
        self.server.transport.abort()
        self.passing.set()


class FaultProxy:
    """See the module's docstring. ``done`` counts the faults of each kind that met a connection."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._pairs: set[_Pair] = set()
        self._next: set[Fault] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.done: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FaultProxy]:
        """Listens on a port of its own, while the context lasts."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for pair in list(self._pairs):
                pair.cut()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def harm(self, fault: Fault, *, seconds: float = 0.05) -> None:
        """Does it to every connection that there is, or to the next one. ``seconds`` is how long a stall or a
        delay lasts.
        """
        if fault in ("duplicate", "refuse"):
            self._next.add(fault)
            return
        for pair in list(self._pairs):
            self.done[fault] += 1
            match fault:
                case "cut":
                    pair.cut()
                case "torn":
                    pair.torn = True
                case "delay":
                    pair.delay_s = seconds
                case "half_open":
                    pair.halve()
                case "stall":
                    pair.passing.clear()
                    asyncio.get_running_loop().call_later(seconds, pair.passing.set)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the proxy ends
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "refuse" in self._next:
            self._next.discard("refuse")
            self.done["refuse"] += 1
            return
        answers, server = await asyncio.open_connection(*self._upstream)
        copy = unheard = None
        if "duplicate" in self._next:
            self._next.discard("duplicate")
            self.done["duplicate"] += 1
            unheard, copy = await asyncio.open_connection(*self._upstream)
        pair = _Pair(writer, server, copy)
        pair.passing.set()
        self._pairs.add(pair)
        ways = [
            asyncio.ensure_future(self._pass(pair, reader, [server, *([copy] if copy else [])])),
            asyncio.ensure_future(self._pass(pair, answers, [writer])),
        ]
        if unheard is not None:
            ways.append(asyncio.ensure_future(_swallow(unheard)))
        try:
            await asyncio.wait(ways[:2], return_when=asyncio.FIRST_COMPLETED)
            await _ended(ways)
            if pair.halved:
                # until the client gives it up: no other fault may help it to find out
                self._pairs.discard(pair)
                await _swallow(reader)
        finally:
            await _ended(ways)
            self._pairs.discard(pair)
            pair.cut()

    async def _pass(
        self, pair: _Pair, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await pair.passing.wait()
                if pair.delay_s:
                    late, pair.delay_s = pair.delay_s, 0.0
                    await asyncio.sleep(late)
                if pair.torn:
                    writers[0].write(chunk[: len(chunk) // 2])
                    await writers[0].drain()
                    return
                for writer in writers:
                    if not writer.is_closing():
                        writer.write(chunk)
                await writers[0].drain()


async def _ended(ways: Sequence[asyncio.Future[None]]) -> None:
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(CHUNK_BYTES):
            pass


async def _harm_for_ever(upstream: str, seed: int, every_s: float) -> None:
    parts = urlsplit(upstream)
    chance = random.Random(seed)
    async with FaultProxy(parts.hostname or "127.0.0.1", parts.port or 3001).running() as proxy:
        print(proxy.url, flush=True)
        while True:
            await asyncio.sleep(every_s * 2 * chance.random())
            proxy.harm(chance.choice(FAULTS), seconds=chance.random() / 5)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="fault_proxy", description="Do what networks do.")
    parser.add_argument("upstream", help="the server, like ws://127.0.0.1:3001")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", type=float, default=0.05, metavar="S", help="seconds between faults (mean)"
    )
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_harm_for_ever(arguments.upstream, arguments.seed, arguments.every))


if __name__ == "__main__":
    main()
