"""A WebSocket server that does what a test tells it to, one connection at a time, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

Json = dict[str, Any]


class Peer:
    """One connection, from the server's side."""

    def __init__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.socket = socket
        self.path = socket.request.path
        self.token = socket.request.headers.get("Authorization", "")
        self.done = asyncio.Event()

    async def say(self, *messages: Json) -> None:
        for message in messages:
            await self.socket.send(json.dumps(message))

    async def greet(self, state: Json | None = None, *, seq: int = 0, epoch: str = "e") -> None:
        how: Json = {"recovered": True} if state is None else {"recovered": False, "state": state}
        await self.say({"type": "CONNECTED", "panelId": "p", "seq": seq, "epoch": epoch, **how})

    async def hear(self) -> Json:
        """The next message other than PING."""
        while True:
            message: Json = json.loads(await self.socket.recv())
            if message["type"] != "PING":
                return message

    async def answer(self, request: Json, value: Any = None, *, seq: int = 0) -> None:
        body = {"status": "success", "returnValue": value}
        await self.say({"type": "RESULT", "requestId": request["requestId"], "result": body, "seq": seq})

    def cut(self) -> None:
        self.socket.transport.abort()
        self.done.set()

    async def close(self, code: int) -> None:
        await self.socket.close(code)
        self.done.set()


class Scripted:
    """``refusals`` are the statuses with which the next upgrades are refused."""

    def __init__(self) -> None:
        self.url = ""
        self.refusals: list[int] = []
        self.tokens: list[str] = []
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def peer(self) -> Peer:
        """The next connection."""
        return await self._peers.get()

    async def serve(self, socket: ServerConnection) -> None:
        peer = Peer(socket)
        self._peers.put_nowait(peer)
        done = asyncio.ensure_future(peer.done.wait())
        await asyncio.wait([done, asyncio.ensure_future(socket.wait_closed())], return_when="FIRST_COMPLETED")
        done.cancel()

    def admit(self, socket: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers.get("Authorization", ""))
        if self.refusals:
            return socket.respond(HTTPStatus(self.refusals.pop(0)), "no")
        return None


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """A server that waits for connections."""
    server = Scripted()
    async with serve(
        server.serve, "127.0.0.1", 0, process_request=server.admit, ping_interval=None
    ) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}"
        yield server
