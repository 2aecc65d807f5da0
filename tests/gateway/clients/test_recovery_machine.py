"""Resume, as a state machine: who was away ends with the same state as who stayed, and hears every event
once.

The room is real: kernel, hub, journal in memory, outbox. The clients are models that follow the protocol's
rules and nothing else: a client's position is the version of the last PATCH or EVENT without ``more``; the
messages of a commit are applied as one; each commit must follow on what the client was last told of
(``prevSeq`` where given, the version before otherwise). Connections break at any byte of what was sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from panels_gateway.access.tokens import principal_of
from panels_gateway.broadcast.outbox import Commit, Outbox, OutboxLimits
from panels_gateway.broadcast.topics import Topics
from panels_gateway.clients import recovery
from panels_gateway.clients.connection import ClientLimits, Connection
from panels_gateway.clients.recovery import Asked
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.images import Image
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import ResidentLimits
from panels_shared.errors import CloseCode
from tests.gateway.builders import payloads
from tests.support.gateway import Gateway, only

T = TypeVar("T")

KEYS: Final = ("a1", "a2", "b")
EVENTS: Final = ("x", "y")
#: Who clients are, and whom events are for, None for everyone.
SUBJECTS: Final = ("ada", "bob")
RECIPIENTS: Final = (None, "ada")
#: What clients want to hear; the first are the default topics. All hold what roaming clients always keep.
TOPICS: Final = (
    ("state", "events"),
    ("state",),
    ("events", "state:b"),
    ("state:a*", "event:x"),
    ("state:b", "event:x"),
    ("event:y",),
)
#: What a client whose topics change wants at all times.
KEPT: Final = ("state:b", "event:x")


class Journal(MemoryJournal):
    """Becomes durable and folds only when it is told to, as far as it is told to."""

    def _schedule(self) -> None:
        return

    def fold(self, position: int) -> None:
        durable, self._durable = self._durable, position
        self._fold()
        self._durable = durable


class Line:
    """The socket between the gateway and one client, and what is on its way there. A slow one merges what
    waits.
    """

    def __init__(self, *, slow: bool) -> None:
        self.outbox = Outbox(OutboxLimits(soft_bytes=150 if slow else 1 << 30, hard_bytes=1 << 30))
        self.closed = False

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        assert self.outbox.put(items)

    def begin(self, head: bytes, image: Image, tail: bytes) -> None:
        raise AssertionError("no state here is large")

    def close(self, code: CloseCode, reason: str) -> None:
        self.closed = True


@dataclass(eq=False)
class Client:
    """A client, by the rules of the protocol. ``heard`` is its events since it last had to start over."""

    topics: frozenset[str]
    slow: bool
    roams: bool
    subject: str
    line: Line | None = None
    connection: Connection | None = None
    state: dict[str, Any] = field(default_factory=dict)
    epoch: str = ""
    position: int | None = None
    #: The highest version of which it was told anything; of a merged PATCH, its last one.
    seen: int = 0
    heard: list[tuple[int, str]] = field(default_factory=list)
    #: Commits up to here are behind it: it was told that it starts over.
    base: int = 0
    resumed: bool = False
    _unit: list[dict[str, Any]] = field(default_factory=list)

    def receive(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "CONNECTED":
            self._connected(message)
        elif kind == "SUBSCRIBED":
            assert not self._unit, "a commit is not told in parts"
            self.seen = max(self.seen, message["seq"])
            self.position = self.seen
        elif kind in ("PATCH", "EVENT"):
            self._commit(message)

    def _connected(self, message: dict[str, Any]) -> None:
        recovered = message.get("recovered")
        assert (recovered is None) == (not self.resumed)
        if recovered:
            assert "state" not in message
            assert message["epoch"] == self.epoch
            return
        self.state, self.epoch, self.heard = message["state"], message["epoch"], []
        self.position = self.seen = self.base = message["seq"]

    def _commit(self, message: dict[str, Any]) -> None:
        seq = message["seq"]
        previous = message.get("prevSeq", message.get("firstSeq", seq) - 1)
        assert previous <= self.seen, f"a gap: {message} to one that has heard of {self.seen}"
        self.seen = max(self.seen, seq)
        self._unit.append(message)
        if message.get("more"):
            return
        for told in self._unit:
            for mutation in told.get("mutations", ()):
                if mutation["op"] == "set":
                    self.state[mutation["key"]] = mutation["value"]
                else:
                    self.state.pop(mutation["key"], None)
            if told["type"] == "EVENT":
                self.heard.append((told["seq"], told["event"]["name"]))
        self._unit.clear()
        self.position = seq

    def cut(self) -> None:
        """The connection is gone, and what was not whole with it."""
        self._unit.clear()
        self.line = None
        if self.connection is not None:
            self.connection.lost()
            self.connection = None


def whole_frames(data: bytes) -> bytes:
    """The frames of ``data`` that are there to their last byte."""
    at = 0
    while True:
        if len(data) < at + 4:
            return data[:at]
        size = data[at + 1] & 0x7F
        end = at + 2 + size
        if size == 126:
            end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data):
            return data[:at]
        at = end


class Resuming(RuleBasedStateMachine):
    """One room, some clients; commits, folding, trimming, breaks and topics in any order."""

    @initialize(
        history=st.sampled_from([1, 2, 5, 1_000]),
        puts_away=st.booleans(),
        clients=st.lists(
            st.tuples(
                st.sampled_from([TOPICS[0], *TOPICS, TOPICS[0], TOPICS[0]]),
                st.booleans(),
                st.booleans(),
                st.sampled_from(SUBJECTS),
            ),
            min_size=1,
            max_size=3,
        ),
        floor=st.sampled_from([0, 200, 256 * 1024]),
    )
    def begin(
        self,
        history: int,
        puts_away: bool,
        clients: list[tuple[tuple[str, ...], bool, bool, str]],
        floor: int,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.journal = Journal(hold=True, history_commits=history)
        memory = ResidentLimits(bytes=0) if puts_away else ResidentLimits()
        self.gateway = Gateway(self.journal, limits=KernelLimits(residents=memory))
        self.floor, recovery.RECOVERY_FLOOR_BYTES = recovery.RECOVERY_FLOOR_BYTES, floor  # type: ignore[misc]
        self.number = 0
        #: What the room is at each version, and the events of each.
        self.states: list[dict[str, Any]] = [{}]
        self.events: list[list[tuple[str, str | None]]] = [[]]
        self.clients = [
            Client(frozenset([*topics, *KEPT]) if roams else frozenset(topics), slow, roams, subject)
            for topics, slow, roams, subject in clients
        ]
        self.run(self.make())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def make(self) -> None:
        await self.gateway.add("p", state={})
        self.states, self.events = [{}], [[]]

    def client(self, number: int) -> Client:
        return self.clients[number % len(self.clients)]

    # -- the room ------------------------------------------------------------------------------------

    @rule(
        changes=st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=3),
        events=st.dictionaries(st.sampled_from(EVENTS), st.sampled_from(RECIPIENTS), max_size=2),
        settle=st.booleans(),
    )
    def commit(self, changes: list[tuple[str, bool]], events: dict[str, str | None], settle: bool) -> None:
        if not changes and not events:
            return
        self.number += 1
        kept = {key: self.number for key, sets in dict(changes).items() if sets}
        deleted = [key for key, sets in dict(changes).items() if not sets]
        args = {"set": kept, "delete": deleted, "emit": dict.fromkeys(events, self.number)}
        args["to"] = {name: subject for name, subject in events.items() if subject}

        async def submit() -> None:
            self.gateway.submit(await self.gateway.open(), args)
            if settle:
                await self.gateway.settle()

        self.run(submit())
        state = {key: value for key, value in self.states[-1].items() if key not in deleted}
        self.states.append(state | kept)
        self.events.append(list(events.items()))

    @rule(back=st.integers(0, 2))
    def revert(self, back: int) -> None:
        async def go() -> None:
            await self.gateway.settle()
            resident = await self.gateway.open()
            seq = max(0, resident.panel.seq - back)
            resident.holds += 1
            self.gateway.kernel.commits.change(
                resident,
                {key: json.dumps(value).encode() for key, value in self.states[seq].items()},
                cause="revert",
                subject=None,
            )
            resident.holds -= 1
            self.gateway.request_turn()
            self.states.append(dict(self.states[seq]))
            self.events.append([])

        self.run(go())

    @rule()
    def settle(self) -> None:
        self.run(self.gateway.settle())

    @rule(part=st.integers(0, 100))
    def becomes_durable(self, part: int) -> None:
        journal = self.journal
        missing = journal.position - journal.durable
        if missing:
            journal.release(journal.durable + (missing * part + 99) // 100)

    @rule(part=st.integers(0, 100))
    def folds(self, part: int) -> None:
        journal = self.journal
        journal.fold(journal.folded + ((journal.durable - journal.folded) * part + 99) // 100)

    @rule()
    def is_made_anew(self) -> None:
        async def go() -> None:
            await self.gateway.settle()
            self.gateway.kernel.making.delete(await self.gateway.open())
            await self.make()

        self.run(go())

    # -- the clients ---------------------------------------------------------------------------------

    @rule(number=st.integers(0, 9))
    def connects(self, number: int) -> None:
        client = self.client(number)
        if client.line is None:
            self.run(self.join(client))

    async def join(self, client: Client) -> None:
        topics = Topics() if client.topics >= {"state", "events"} else only(*client.topics)
        topics.add(client.topics)
        client.resumed = client.position is not None
        asked = Asked(client.resumed, client.epoch, client.position, topics)
        resident = await self.gateway.open()
        resident.holds += 1
        found = await recovery.read(asked, resident, self.gateway.kernel.histories, client.subject)
        resident.holds -= 1
        client.line = Line(slow=client.slow)
        client.connection = Connection(
            self.gateway.kernel,
            resident.panel,
            principal_of(client.subject, expires_at=None, grants=None),
            client.line,
            client_id="c",
            limits=ClientLimits(),
            topics=topics,
        )
        client.connection.open(found)

    @rule(number=st.integers(0, 9), budget=st.sampled_from([1, 300, 1 << 20]))
    def reads(self, number: int, budget: int) -> None:
        self.read(self.client(number), budget)

    def read(self, client: Client, budget: int = 1 << 30) -> None:
        if client.line is None:
            return
        for payload in payloads(client.line.outbox.drain(budget)):
            client.receive(json.loads(payload))
        if client.line.closed and not client.line.outbox:
            client.cut()

    @rule(number=st.integers(0, 9), part=st.integers(0, 1_000))
    def breaks(self, number: int, part: int) -> None:
        client = self.client(number)
        if client.line is None:
            return
        sent = client.line.outbox.drain(1 << 30)
        for payload in payloads(whole_frames(sent[: len(sent) * part // 1_000])):
            client.receive(json.loads(payload))
        client.cut()

    @precondition(lambda self: any(client.roams for client in self.clients))
    @rule(number=st.integers(0, 9), topics=st.sampled_from(TOPICS), told=st.booleans())
    def changes_topics(self, number: int, topics: tuple[str, ...], told: bool) -> None:
        client = self.client(number)
        if not client.roams or client.connection is None:
            return
        wanted = frozenset([*topics, *KEPT])
        for kind, names in (("SUBSCRIBE", wanted - client.topics), ("UNSUBSCRIBE", client.topics - wanted)):
            message: dict[str, Any] = {"type": kind, "topics": sorted(names)}
            if told:
                message["requestId"] = "r"
            self.run(self.send(client.connection, json.dumps(message)))
        client.topics = wanted

    async def send(self, connection: Connection, text: str) -> None:
        connection.receive_text(text)

    # -- what must hold ------------------------------------------------------------------------------

    @invariant()
    def nobody_is_ahead(self) -> None:
        for client in getattr(self, "clients", ()):
            assert client.heard == sorted(client.heard, key=lambda event: event[0])

    def check(self, client: Client) -> None:
        topics = only(*(KEPT if client.roams else client.topics))
        expected = {key: value for key, value in self.states[-1].items() if topics.want_key(key)}
        assert {key: value for key, value in client.state.items() if topics.want_key(key)} == expected
        events = [
            (seq, name)
            for seq in range(client.base + 1, len(self.events))
            for name, subject in self.events[seq]
            if topics.want_event(name) and subject in (None, client.subject)
        ]
        assert [event for event in client.heard if topics.want_event(event[1])] == events
        assert len(set(client.heard)) == len(client.heard)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        recovery.RECOVERY_FLOOR_BYTES = self.floor  # type: ignore[misc]
        try:
            for _ in range(2):
                self.run(self.gateway.settle())
                self.journal.release(self.journal.position)
                for client in self.clients:
                    self.read(client)
                    if client.line is None:
                        self.run(self.join(client))
            self.run(self.gateway.settle())
            self.journal.release(self.journal.position)
            for client in self.clients:
                self.read(client)
                self.check(client)
            resident = self.run(self.gateway.open())
            assert self.gateway.state(resident) == self.states[-1]
            assert resident.panel.seq == len(self.states) - 1
        finally:
            self.loop.close()


Resuming.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestResuming = Resuming.TestCase
