"""A client that follows the rules of resuming to the letter, and raises at the first message that breaks one.

``Replica`` is the rules, without I/O: it is fed every message and knows the state, the position to resume
from, and what events there were. ``ResumingClient`` is a WebSocket around it: it connects again whenever it
is cut off, asks for what it has missed, and sends again, under the same idempotency key, every call that
nobody has answered.

Two numbers say where a replica is. ``told`` is the highest version that it has heard of; the next message has
to follow it. ``position`` is the version up to which it has heard everything; what belongs to one commit is
one unit, all of whose messages but the last say ``more``. A replica that is cut off within a unit forgets the
events of that unit, and resumes from before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.support.clients import Message

#: Codes after which the same call is sent again.
RETRIED: Final = frozenset({"OVERLOADED", "UNAVAILABLE", "RATE_LIMITED"})
#: How long a client waits before it connects again, and before it sends a refused call again, in seconds.
RECONNECT_S: Final = 0.05
RETRY_S: Final = 0.1


class GapError(AssertionError):
    """The server broke a rule of resuming: something is missing, or there twice, or in another order."""


class Replica:
    """What one client knows of one panel. ``topics`` None stands for the default ones."""

    def __init__(self, topics: Sequence[str] | None = None) -> None:
        self.topics = topics
        self.state: dict[str, Any] = {}
        self.epoch: str | None = None
        self.position = 0
        self.told = 0
        #: (version, name, payload) of every event since the state was last sent whole
        self.events: list[tuple[int, str, Any]] = []
        #: Whether it has heard everything since its first state: no state was sent in place of what was
        #: missed.
        self.unbroken = True
        #: The version of the last state that was sent whole.
        self.began = 0
        self._asked = False
        self._merged = 0
        self._unit: list[tuple[int, str, Any]] = []
        self._open: int | None = None

    def query(self, *, void: bool = False) -> str:
        """The query to connect with. ``void`` says that the state cannot be used any more."""
        fields = []
        self._asked = self.epoch is not None
        if self.epoch is not None:
            since = "none" if void else str(self.position)
            fields += [f"epoch={quote(self.epoch)}", f"since={since}"]
        if self.topics is not None:
            fields.append("topics=" + ",".join(quote(topic) for topic in self.topics))
        return "&".join(fields)

    def cut(self) -> None:
        """The connection ended: what was heard of a unit that has not ended is forgotten, but for its
        mutations.
        """
        self._unit.clear()
        self._open = None
        self._merged = 0
        self.told = self.position

    def connected(self, message: Message) -> bool | None:
        """CONNECTED. Returns ``recovered``. Raises ``GapError``."""
        recovered: bool | None = message.get("recovered")
        if self._asked != (recovered is not None):
            raise GapError(f"expected recovered to answer a resume and nothing else, got {message}")
        if recovered:
            if "state" in message or message["epoch"] != self.epoch or message["seq"] < self.position:
                raise GapError(f"cannot go on from version {self.position} of {self.epoch} with {message}")
            return True
        if self._asked:
            self.unbroken = False
        self.state = dict(message["state"])
        self.epoch = message["epoch"]
        self.position = self.told = self.began = message["seq"]
        self.events.clear()
        return recovered

    def patch(self, message: Message) -> None:
        """PATCH. Raises ``GapError``."""
        seq: int = message["seq"]
        first: int = message.get("firstSeq", seq)
        self._begin(message.get("prevSeq", first - 1), seq, message)
        if first < seq:
            self._merged = seq
        for mutation in message["mutations"]:
            if mutation["op"] == "set":
                self.state[mutation["key"]] = mutation["value"]
            else:
                self.state.pop(mutation["key"], None)
        self._end(message)

    def event(self, message: Message) -> None:
        """EVENT. Raises ``GapError``."""
        seq = message["seq"]
        of_merged = self.position < seq <= self._merged and (self._open is None or seq >= self._open)
        if of_merged:
            self._open = seq
        elif self._open != seq:
            self._begin(message.get("prevSeq", seq - 1), seq, message)
        elif message.get("prevSeq", seq - 1) not in (self.position, seq - 1):
            raise GapError(f"expected the place of a unit's other messages, got {message}")
        self._unit.append((seq, message["event"]["name"], message["event"]["payload"]))
        self._end(message)

    def _begin(self, follows: int, seq: int, message: Message) -> None:
        if self._open is not None and self._open != self._merged and self._open > self._merged:
            raise GapError(f"expected the rest of version {self._open}, got {message}")
        if follows != self.told or seq <= self.told:
            raise GapError(f"expected what follows version {self.told}, got {message}")
        self.told = self._open = seq

    def _end(self, message: Message) -> None:
        if not message.get("more"):
            self.position = message["seq"]
            self.events += self._unit
            self._unit.clear()
            self._open = None


@dataclass
class Call:
    """A trigger that is made once, however often it is sent. ``answer`` is its RESULT or ERROR."""

    key: str
    tool: str
    args: object
    sent: int = 0
    answer: Message | None = None

    @property
    def text(self) -> str:
        """The TRIGGER."""
        return json.dumps(
            {
                "type": "TRIGGER",
                "tool": self.tool,
                "args": self.args,
                "requestId": self.key,
                "idempotencyKey": self.key,
            }
        )


@dataclass
class ResumingClient:
    """One client of one panel, for as long as ``run`` runs.

    ``url`` is the WebSocket's address without a query; ``next_call`` gives the next call to make, None for
    none now, and is asked whenever fewer than ``window`` calls are unanswered. ``lifetime_s`` gives how long
    a connection is kept before this client itself cuts it, None for as long as it holds; ``void`` whether it
    then says that its state is void.
    """

    url: Callable[[], str]
    next_call: Callable[[], Call | None]
    window: int = 4
    replica: Replica = field(default_factory=Replica)
    lifetime_s: Callable[[], float | None] = lambda: None
    void: Callable[[], bool] = lambda: False
    counts: Counter[str] = field(default_factory=Counter)
    unanswered: dict[str, Call] = field(default_factory=dict)
    #: Set from outside: no more calls, and the end once all are answered.
    leaving: bool = False
    _socket: ClientConnection | None = None
    _pongs: list[asyncio.Future[None]] = field(default_factory=list)
    _retries: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Connects, again and again, until ``leaving`` and everything is answered. Raises ``GapError``."""
        while not (self.leaving and not self.unanswered):
            try:
                await self._visit()
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, EOFError) as exc:
                if isinstance(exc, InvalidStatus) and exc.response.status_code not in (503, 429):
                    raise GapError(f"the upgrade was refused: {exc}, {exc.response.body!r}") from exc
                self.counts["cuts"] += 1
            await asyncio.sleep(RECONNECT_S)

    async def _visit(self) -> None:
        query = self.replica.query(void=self.void())
        connecting = connect(
            f"{self.url()}?{query}" if query else self.url(),
            compression=None,
            proxy=None,
            ping_interval=None,
            open_timeout=10,
            close_timeout=0.5,
            max_size=None,
            max_queue=None,
        )
        async with connecting as socket:
            try:
                async with asyncio.timeout(self.lifetime_s()):
                    await self._converse(socket)
            except TimeoutError:
                self.counts["own cuts"] += 1
                socket.transport.abort()
            finally:
                self._socket = None
                for task in self._retries:
                    task.cancel()
                self._retries.clear()
                for pong in self._pongs:
                    if not pong.done():
                        pong.set_exception(ConnectionResetError("cut off before PONG"))
                self._pongs.clear()
                self.replica.cut()

    async def _converse(self, socket: ClientConnection) -> None:
        hello = json.loads(await socket.recv())
        if hello["type"] != "CONNECTED":
            raise GapError(f"expected CONNECTED, got {hello}")
        recovered = self.replica.connected(hello)
        word = {None: "fresh", True: "recovered", False: "resynced"}[recovered]
        self.counts[word] += 1
        self._socket = socket
        for call in list(self.unanswered.values()):
            self.counts["sent again"] += 1
            await self._send(socket, call)
        while True:
            await self._make_calls(socket)
            if self.leaving and not self.unanswered:
                return
            # one that has nothing to wait for looks around now and then
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    text = await socket.recv()
                self._hear(socket, json.loads(text))

    async def _make_calls(self, socket: ClientConnection) -> None:
        while not self.leaving and len(self.unanswered) < self.window:
            call = self.next_call()
            if call is None:
                return
            self.unanswered[call.key] = call
            await self._send(socket, call)

    async def _send(self, socket: ClientConnection, call: Call) -> None:
        call.sent += 1
        await socket.send(call.text)

    def _hear(self, socket: ClientConnection, message: Message) -> None:
        match message["type"]:
            case "PATCH":
                self.counts["patches"] += 1
                self.replica.patch(message)
            case "EVENT":
                self.counts["events"] += 1
                self.replica.event(message)
            case "RESULT" | "ERROR":
                self._answered(socket, message)
            case "PROGRESS":  # the answer comes when the handler has gone on
                if message["requestId"] not in self.unanswered:
                    raise GapError(f"expected progress of a call, got {message}")
                self.counts["progress"] += 1
            case "PONG":
                pong = self._pongs.pop(0)
                if not pong.done():
                    pong.set_result(None)
            case kind:
                raise GapError(f"expected a message of the protocol, got {kind}")

    def _answered(self, socket: ClientConnection, message: Message) -> None:
        call = self.unanswered.get(message.get("requestId", ""))
        if call is None:
            raise GapError(f"expected an answer to a call, got {message}")
        if message["type"] == "ERROR" and message["code"] in RETRIED:
            self.counts["retried"] += 1
            self._retries.add(asyncio.create_task(self._retry(socket, call)))
            return
        if message["type"] == "RESULT" and self.replica.topics is None and message["seq"] > self.replica.told:
            raise GapError(f"version {message['seq']} was answered and not told, only {self.replica.told}")
        del self.unanswered[call.key]
        call.answer = message
        self.counts["answers"] += 1

    async def _retry(self, socket: ClientConnection, call: Call) -> None:
        await asyncio.sleep(RETRY_S)
        with contextlib.suppress(ConnectionClosed, OSError):
            await self._send(socket, call)

    async def barrier(self) -> None:
        """Returns when this client has heard everything that was on its way to it. Raises ``OSError``,
        ``ConnectionClosed``, also, after a moment, where it is not connected."""
        if self._socket is None:
            await asyncio.sleep(RECONNECT_S)
            raise ConnectionResetError("not connected")
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        try:
            await self._socket.send('{"type":"PING"}')
        except (OSError, ConnectionClosed):
            pong.cancel()
            raise
        await pong


async def persist(attempt: Callable[[], Awaitable[Any]], *, errors: tuple[type[Exception], ...]) -> Any:
    """What ``attempt`` gives, tried again for as long as it raises one of ``errors``."""
    while True:
        try:
            return await attempt()
        except errors:
            await asyncio.sleep(RETRY_S)
