"""Servers on loopback that speak raw bytes, well and badly, and names that lead to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Respond = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One connection: the request as it came, and the way to answer."""

    head: bytes
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def header(self, name: str) -> str | None:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        return None

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self,
        body: bytes = b"",
        *,
        status: str = "200 OK",
        headers: Sequence[str] = (),
        kind: str = "text/plain",
    ) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", f"content-type: {kind}", *headers]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)


@dataclass
class World:
    """A running server. ``names`` is what each look-up of a name answers, in turn; the last answer stays."""

    port: int
    exchanges: list[Exchange] = field(default_factory=list)
    names: dict[str, list[list[str]]] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        if host not in self.names:
            raise OSError("no such name")
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[World]:
    """A server whose connections each get one request and one ``respond``."""
    world = World(0)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            exchange = Exchange(head, b"", writer)
            length = exchange.header("content-length")
            exchange.body = await reader.readexactly(int(length)) if length else b""
            world.exchanges.append(exchange)
            await respond(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    world.port = server.sockets[0].getsockname()[1]
    try:
        yield world
    finally:
        server.close()
        await server.wait_closed()
