"""A small server of the protocol's resuming part, written from the document, that can be made wrong in one
way at a time.

It runs no handlers: of a panel it knows the tool ``apply`` of the vectors, and does in Python what that does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote_plus

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

Json = dict[str, Any]
DEFAULT_TOPICS: Final = ("state", "events")
FLOOR_BYTES: Final = 256 * 1024


class Fault(Enum):
    """What the server does wrong."""

    NOTHING = "nothing"
    HOLE = "what was missed lacks its first commit"
    REPEATS = "the last commit that the client has comes again"
    ANY_EPOCH = "the epoch is not looked at"
    TRUSTS_SINCE = "a version that is yet to come is taken for the last"
    NO_MORE = "messages of a commit do not say more"
    NO_PREVIOUS = "prevSeq is left out"
    DEAF = "topics are not looked at"
    NO_EVENTS = "what was missed lacks its events"
    SILENT = "the whole state comes, and is called recovered"
    STALE = "the whole state lacks the last commit"
    FORGETS = "live commits are not sent to who resumed"
    ENDLESS = "what was missed comes however large it is"


@dataclass(frozen=True)
class Commit:
    """One version: what changed, and what was said."""

    mutations: list[Json]
    events: list[Json]


@dataclass
class Client:
    """Somebody who watches. ``position`` is the last version that they were told of."""

    socket: WebSocket
    topics: Sequence[str]
    position: int


@dataclass
class Panel:
    """A panel. ``states`` has the state of every version."""

    states: list[Json]
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    commits: list[Commit] = field(default_factory=list[Commit])
    clients: list[Client] = field(default_factory=list[Client])

    @property
    def seq(self) -> int:
        """The last version."""
        return len(self.commits)

    def replace(self, state: Json, events: list[Json]) -> bool:
        """Makes ``state`` the state, as one version; False where nothing would change and nothing is said."""
        old = self.states[-1]
        mutations: list[Json] = [{"op": "delete", "key": key} for key in old if key not in state]
        mutations += [
            {"op": "set", "key": key, "value": value}
            for key, value in state.items()
            if key not in old or old[key] != value
        ]
        self.commits.append(Commit(mutations, events))
        self.states.append(state)
        return bool(mutations or events)


def matches(topics: Sequence[str], kind: str, name: str) -> bool:
    """Whether a topic of this ``kind`` (state:, event:) names ``name``."""
    wanted = [topic.removeprefix(kind) for topic in topics if topic.startswith(kind)]
    return any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in wanted)


class FakeServer:
    """See the module's docstring."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._panels: dict[str, Panel] = {}

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/panels", self._create, methods=["POST"]),
                Route("/panels/{id}", self._panel, methods=["PUT", "DELETE"]),
                Route("/panels/{id}/state", self._state),
                Route("/panels/{id}/history", self._history),
                Route("/panels/{id}/trigger/apply", self._trigger, methods=["POST"]),
                Route("/panels/{id}/revert", self._revert, methods=["POST"]),
                WebSocketRoute("/panels/{id}/ws", self._watch),
            ]
        )

    # -- HTTP --------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        self._panels[body["id"]] = Panel([body.get("initialState", {})])
        return JSONResponse({"id": body["id"]}, 201)

    async def _panel(self, request: Request) -> Response:
        if request.method == "DELETE":
            self._panels.pop(request.path_params["id"], None)
            return Response(status_code=204)
        body, panel = await request.json(), self._of(request)
        if "initialState" in body:
            panel.replace(body["initialState"], [])
            await self._tell(panel)
        return JSONResponse({})

    async def _state(self, request: Request) -> Response:
        panel = self._of(request)
        return JSONResponse({"seq": panel.seq, "epoch": panel.epoch, "state": panel.states[-1]})

    async def _history(self, request: Request) -> Response:
        return JSONResponse({"commits": []})

    async def _trigger(self, request: Request) -> Response:
        args, panel = (await request.json())["args"], self._of(request)
        state = {**panel.states[-1], **args["set"]}
        for key in args["delete"]:
            state.pop(key, None)
        events = [{"name": name, "payload": payload, "timestamp": 0} for name, payload in args["emit"]]
        panel.replace(state, events)
        await self._tell(panel)
        return JSONResponse({})

    async def _revert(self, request: Request) -> Response:
        panel = self._of(request)
        panel.replace(panel.states[(await request.json())["seq"]], [])
        await self._tell(panel)
        return JSONResponse({})

    def _of(self, request: Request) -> Panel:
        return self._panels[request.path_params["id"]]

    # -- WebSocket ---------------------------------------------------------------------------------------

    async def _watch(self, socket: WebSocket) -> None:
        await socket.accept()
        panel, query = self._panels[socket.path_params["id"]], socket.query_params
        raw = [
            part[7:]
            for part in socket.scope["query_string"].decode().split("&")
            if part.startswith("topics=")
        ]
        topics: Sequence[str] = DEFAULT_TOPICS
        if raw:
            # a comma within a topic is escaped, so that the text is split before it is decoded
            topics = [unquote_plus(part) for part in raw[0].split(",") if part]
        client = Client(socket, topics, panel.seq)
        greeting: Json = {
            "type": "CONNECTED",
            "panelId": "",
            "seq": panel.seq,
            "epoch": panel.epoch,
            "clientId": "c",
        }
        messages = self._missed(panel, client, query)
        greeting["recovered"] = messages is not None or self._fault is Fault.SILENT
        if messages is None:
            stale = self._fault is Fault.STALE and len(panel.states) > 1
            greeting["state"] = panel.states[-2 if stale else -1]
        for message in [greeting, *(messages or [])]:
            await socket.send_text(json.dumps(message))
        if self._fault is not Fault.FORGETS:
            panel.clients.append(client)
        async for text in socket.iter_text():
            assert json.loads(text) == {"type": "PING"}
            await socket.send_text('{"type":"PONG"}')
        if client in panel.clients:
            panel.clients.remove(client)

    def _missed(self, panel: Panel, client: Client, query: Mapping[str, str]) -> list[Json] | None:
        if query["since"] == "none" or (
            query.get("epoch") != panel.epoch and self._fault is not Fault.ANY_EPOCH
        ):
            return None
        since = int(query["since"])
        if since > panel.seq:
            if self._fault is not Fault.TRUSTS_SINCE:
                return None
            since = panel.seq
        first = since + (self._fault is Fault.HOLE) - (self._fault is Fault.REPEATS and since > 0)
        client.position = since
        messages = [
            message for seq in range(first + 1, panel.seq + 1) for message in self._told(panel, client, seq)
        ]
        if self._fault is Fault.NO_EVENTS:
            messages = [message for message in messages if message["type"] != "EVENT"]
        size, limit = len(json.dumps(messages)), max(FLOOR_BYTES, len(json.dumps(panel.states[-1])))
        return messages if size <= limit or self._fault is Fault.ENDLESS else None

    async def _tell(self, panel: Panel) -> None:
        for client in panel.clients:
            for message in self._told(panel, client, panel.seq):
                await client.socket.send_text(json.dumps(message))

    def _told(self, panel: Panel, client: Client, seq: int) -> list[Json]:
        commit = panel.commits[seq - 1]
        topics = DEFAULT_TOPICS if self._fault is Fault.DEAF else client.topics
        mutations = [
            mutation
            for mutation in commit.mutations
            if "state" in topics or matches(topics, "state:", mutation["key"])
        ]
        events = [
            event for event in commit.events if "events" in topics or matches(topics, "event:", event["name"])
        ]
        messages: list[Json] = [{"type": "EVENT", "event": event, "seq": seq} for event in events]
        if mutations or (not commit.mutations and not commit.events and set(DEFAULT_TOPICS) <= set(topics)):
            messages.insert(0, {"type": "PATCH", "mutations": mutations, "seq": seq})
        for message in messages[:-1]:
            if self._fault is not Fault.NO_MORE:
                message["more"] = True
        if client.position != seq - 1 and self._fault is not Fault.NO_PREVIOUS:
            for message in messages:
                message["prevSeq"] = client.position
        if messages:
            client.position = seq
        return messages


@contextlib.asynccontextmanager
async def serving(fault: Fault) -> AsyncIterator[str]:
    """The URL of a server with this fault, while the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # those that it accepts inherit this; head and body of an answer are two writes
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            FakeServer(fault).app(), ws="websockets-sansio", log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        # connections wait in the backlog until the server takes them: nothing to wait for here
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
