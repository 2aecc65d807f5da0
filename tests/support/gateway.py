"""A whole gateway without sockets and processes: the real kernel and dispatcher, a journal in memory, and a
scripted worker.

    Gateway ── kernel.intake, making, residents ... ──▶ dispatcher ──drain──▶ the worker's inbox
       ▲                                                                             │ respond(Call)
       └──────────── kernel.finish ◀── dispatcher.accept ◀──────────────────────────┘

It stands in for the broker and for what is behind it. A turn is taken at the end of the loop's turn when
somebody asks for it; in a turn the worker answers what it was sent before, so that a trigger takes two of
them, as it does with a real one.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from panels_gateway.access.tokens import ANONYMOUS, Principal
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.messages import mutations_json
from panels_gateway.broadcast.outbox import Commit
from panels_gateway.broadcast.topics import Topics
from panels_gateway.clients.connection import ClientLimits, Connection
from panels_gateway.clients.recovery import Asked
from panels_gateway.clients.recovery import read as read_recovery
from panels_gateway.dispatch.dispatcher import Dispatcher, DispatchLimits
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.images import Image
from panels_gateway.kernel.kernel import Kernel, KernelLimits
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.definition import PanelDefinition
from panels_gateway.panels.definition_body import DefinitionLimits, parse
from panels_gateway.panels.panel import OWN_PANEL, Mutation
from panels_gateway.panels.trigger import Answer, Progress, Trigger
from panels_shared import messages as m
from panels_shared.errors import CloseCode
from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.messages import PoolId, Refusal, WorkerId
from panels_shared.outcome import Completed, Outcome, Usage
from tests.gateway.builders import deleting, payloads, setting

POOL: Final = PoolId(b"pool")
WORKER: Final = WorkerId(b"worker")
#: Rounds of the loop without a turn after which nothing is under way.
ROUNDS: Final = 24


class Call(NamedTuple):
    """A job as the scripted worker sees it. ``state`` is the panel's when the job is answered."""

    panel_id: str
    tool: str
    args: Any
    state: Mapping[str, bytes]
    job: m.Job | m.Resume
    #: What a handler that goes on is given, and what it was when it began to wait; none for one that begins.
    answers: tuple[m.Answered, ...] = ()
    image: bytes = b""


#: What the worker does with a job; None: it keeps silent until ``Gateway.answer_held``.
Respond = Callable[[Call], Outcome | None]


def completed(
    returned: object = None,
    *mutations: Mutation,
    events: Mapping[str, object] | None = None,
    to: Mapping[str, str] | None = None,
) -> Completed:
    """How a handler ends that returned this, changed the state like that and emitted these events, those in
    ``to`` for one subject only.
    """
    addressed = {name: {"to": subject} for name, subject in (to or {}).items()}
    return Completed(
        Usage(fuel=7, execution_us=50),
        json.dumps(returned).encode(),
        mutations_json(mutations) if mutations else b"[]",
        tuple(
            msgspec.json.encode(
                {"name": name, "payload": payload, "timestamp": 1.0} | addressed.get(name, {})
            )
            for name, payload in (events or {}).items()
        ),
    )


def follow(call: Call) -> Outcome:
    """The usual worker: a trigger's args say what to do. ``{"set": {k: v}, "delete": [k], "emit": {name:
    payload}}`` changes and emits; it returns its args."""
    args = call.args if isinstance(call.args, dict) else {}
    changes = [setting(key, value) for key, value in args.get("set", {}).items()]
    changes += [deleting(key) for key in args.get("delete", ())]
    return completed(call.args, *changes, events=args.get("emit"), to=args.get("to"))


def make_definition(
    panel_id: str, *tools: str, state: Mapping[str, object] | None = None, **fields: object
) -> PanelDefinition:
    """A definition with these tools, one handler each."""
    capabilities = [*DEFAULT_CAPABILITIES, "ext:*"]
    body: dict[str, object] = {
        "kind": "test",
        "capabilities": capabilities,
        "tools": [_tool(name) for name in tools],
        **fields,
    }
    if state is not None:
        body["initialState"] = state
    return parse(json.dumps(body).encode(), DefinitionLimits(), default_id=panel_id)


def _tool(name: str) -> dict[str, object]:
    return {"name": name, "handler": f"/* {name} */ $args"}


class Caller:
    """Somebody who waits for answers, and keeps them in order."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.progresses: list[Progress] = []
        self.named: dict[str | None, Answer] = {}

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        self.answers.append(answer)
        self.named[trigger.request_id] = answer

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        self.progresses.append(progress)

    @property
    def last(self) -> Answer:
        return self.answers[-1]


class Socket:
    """The transport of a client that reads everything at once."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.closed: tuple[CloseCode, str] | None = None

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        assert b"".join([item if isinstance(item, bytes) else item.frames for item in items]) == frames
        assert self.closed is None, "nothing may follow the closing handshake"
        self.frames.append(frames)

    def begin(self, head: bytes, image: Image, tail: bytes) -> None:
        assert self.closed is None, "nothing may follow the closing handshake"
        self.frames.append(text_frame(b"".join((head, *image.parts, tail))))
        image.release()

    def close(self, code: CloseCode, reason: str) -> None:
        self.closed = (code, reason)

    @property
    def is_closed(self) -> bool:
        return self.closed is not None

    @property
    def heard(self) -> list[dict[str, Any]]:
        """Every message up to now."""
        return [json.loads(payload) for payload in payloads(b"".join(self.frames))]

    @property
    def words(self) -> list[str]:
        """Every message up to now, as its type and version."""
        return [f"{message['type']} {message.get('seq', '')}".strip() for message in self.heard]


class Gateway:
    """See the module's docstring. ``now_s`` and ``wall_s`` are its clocks, which only tests move."""

    def __init__(
        self,
        journal: MemoryJournal | None = None,
        respond: Respond = follow,
        *,
        limits: KernelLimits | None = None,
        dispatch: DispatchLimits | None = None,
        workers: bool = True,
        seal_key: bytes = b"k" * 32,
    ) -> None:
        self.now_s = 100.0
        self.wall_s = 1_000_000.0
        self.respond = respond
        #: What the worker answers to the trigger of `/health/ready`, by its argument.
        self.respond_own: Callable[[int], Outcome | None] = lambda number: completed(number + 1)
        self.refusals: dict[bytes, Refusal] = {}
        self.compiling = True
        self.dead = False  # killed: it does nothing any more, whatever its timers say
        self.prepares: list[m.Prepare] = []
        self.jobs: list[m.Job | m.Resume] = []
        self.failures: list[JournalError] = []
        self.journal = journal if journal is not None else MemoryJournal()
        self.dispatcher = Dispatcher(dispatch)
        self.kernel = Kernel(
            self.dispatcher,
            self.journal,
            limits,
            clock=lambda: self.now_s,
            wall_clock=lambda: self.wall_s,
            random_bits=lambda bits: (1 << bits) - 1,
            seal_key=seal_key,
        )
        self.kernel.turn.request_seal = self.request_turn
        self.kernel.on_failure = self.failures.append
        self._inbox: deque[m.Job | m.Resume] = deque()
        self._held: deque[m.Job | m.Resume] = deque()
        self._tools: dict[int, str] = {}
        self._due = False
        if workers:
            self.start_workers()

    def start_workers(self) -> None:
        """A pool and a worker connect."""
        self.dispatcher.hello(WorkerId(POOL), m.Hello("pool", b"", 1, {}), self.now_s)
        self.dispatcher.hello(WORKER, m.Hello("sandbox", POOL, 2, {}), self.now_s)

    # -- turns ---------------------------------------------------------------------------------------

    def request_turn(self) -> None:
        """Has a turn taken soon, as the broker does."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.take_turn)

    def take_turn(self) -> None:
        """The worker answers what it was sent; then everything that has come up leaves, on both sides."""
        self._due = False
        if self.dead:
            return
        jobs, self._inbox = self._inbox, deque()
        for job in jobs:
            self._run(job)
        dispatcher, kernel = self.dispatcher, self.kernel
        for trigger, reason, text in dispatcher.take_failures():
            kernel.failed(trigger, reason, text)
        for trigger, text in dispatcher.overdue.take():
            kernel.overdue(trigger, text)
        for digest, refusal in dispatcher.preparations.take_prepared():
            kernel.prepared(digest, refusal)
        for _, messages in dispatcher.drain(self.now_s):
            for message in messages:
                self._receive(message)
        for trigger in dispatcher.take_outdated():
            kernel.outdated(trigger)
        if self._inbox:
            self.request_turn()
        kernel.flush()

    async def wait(self, seconds: float) -> None:
        """Time passes, and the worker stays alive."""
        self.now_s += seconds
        for peer in list(self.dispatcher.peers()):
            self.dispatcher.heard(peer, self.now_s)
        self.dispatcher.tick(self.now_s)
        self.kernel.tick()
        self.request_turn()
        await self.settle()

    def _receive(self, message: m.ToWorker) -> None:
        if isinstance(message, m.Job | m.Resume):
            self.jobs.append(message)
            self._inbox.append(message)
        elif isinstance(message, m.Tool):
            self._tools[message.tool] = message.name
        elif isinstance(message, m.Prepare):
            self.prepares.append(message)
            if self.compiling:
                self._compile(message)

    def _compile(self, message: m.Prepare) -> None:
        prepared = m.Prepared(message.digest, self.refusals.get(message.digest))
        self.dispatcher.prepared(POOL, prepared, self.now_s)
        self.request_turn()

    def compile_held(self) -> None:
        """The pool answers what it was asked while it was not ``compiling``."""
        for message in self.prepares:
            self._compile(message)

    def _run(self, job: m.Job | m.Resume) -> None:
        if isinstance(job, m.Job) and job.panel == OWN_PANEL:
            if (own := self.respond_own(int(job.args))) is None:
                self._held.append(job)
            else:
                self._finish(job, own)
            return
        lane = self.dispatcher._fleet.lanes.get(job.panel)
        if lane is None:
            return
        panel = lane.panel
        tool = self._tools[job.tool]
        if isinstance(job, m.Resume):
            call = Call(panel.id, tool, None, panel.state, job, job.answers, job.image)
        else:
            call = Call(panel.id, tool, json.loads(job.args), panel.state, job)
        outcome = self.respond(call)
        if outcome is None:
            self._held.append(job)
        else:
            self._finish(job, outcome)

    def _finish(self, job: m.Job | m.Resume, outcome: Outcome) -> None:
        run = self.dispatcher.accept(WORKER, m.Result(job.job, outcome), self.now_s)
        if run is not None:
            self.kernel.finish(run, outcome)

    @property
    def held(self) -> int:
        """Jobs that the worker keeps silent about."""
        return len(self._held)

    def answer_held(self, outcome: Outcome | None = None) -> None:
        """The worker answers the oldest job that it kept silent about."""
        self._finish(self._held.popleft(), outcome if outcome is not None else completed())
        self.request_turn()

    async def settle(self) -> None:
        """Lets the loop go round until nothing is under way but what is held."""
        quiet = 0
        while quiet < ROUNDS:
            quiet = 0 if self._due else quiet + 1
            await asyncio.sleep(0)

    # -- what tests do -------------------------------------------------------------------------------

    async def add(
        self, panel_id: str = "p", *tools: str, state: Mapping[str, object] | None = None, **fields: object
    ) -> Resident:
        """Makes a panel, with the tools ``t`` and ``u`` unless others are named."""
        made = make_definition(panel_id, *(tools or ("t", "u")), state=state, **fields)
        resident = await self.kernel.making.create(made)
        await self.settle()
        return resident

    async def open(self, panel_id: str = "p") -> Resident:
        """The panel, which must be there."""
        resident = await self.kernel.residents.open(panel_id)
        assert resident is not None, panel_id
        return resident

    def submit(
        self,
        resident: Resident,
        args: object = None,
        *,
        tool: str = "t",
        key: str | None = None,
        caller: Caller | None = None,
        name: str | None = None,
        principal: Principal = ANONYMOUS,
        expected_seq: int | None = None,
    ) -> Caller:
        """Triggers ``tool`` and returns at once; the answer will be the caller's."""
        caller = caller if caller is not None else Caller()
        encoded = json.dumps(args).encode()
        intake = self.kernel.intake
        intake.submit(
            intake.accept(
                caller, resident.panel, tool, encoded, principal, name, key, expected_seq=expected_seq
            )
        )
        return caller

    async def trigger(
        self, resident: Resident, args: object = None, *, tool: str = "t", key: str | None = None
    ) -> Answer:
        """Triggers ``tool`` and returns the answer."""
        caller = self.submit(resident, args, tool=tool, key=key)
        await self.settle()
        (answer,) = caller.answers
        return answer

    async def put(self, resident: Resident, **values: object) -> Answer:
        """One commit that sets these keys."""
        return await self.trigger(resident, {"set": values})

    def connect(
        self,
        resident: Resident,
        *,
        topics: Topics | None = None,
        principal: Principal = ANONYMOUS,
        limits: ClientLimits | None = None,
    ) -> tuple[Connection, Socket]:
        """A client that begins anew."""
        connection, socket = self._connection(resident, topics, principal, limits)
        connection.open()
        return connection, socket

    async def resume(self, resident: Resident, asked: Asked) -> tuple[Connection, Socket]:
        """A client that asks to go on from where it was."""
        recovery = await read_recovery(asked, resident, self.kernel.histories, None)
        connection, socket = self._connection(resident, asked.topics, ANONYMOUS, None)
        connection.open(recovery)
        return connection, socket

    def _connection(
        self, resident: Resident, topics: Topics | None, principal: Principal, limits: ClientLimits | None
    ) -> tuple[Connection, Socket]:
        socket = Socket()
        connection = Connection(
            self.kernel,
            resident.panel,
            principal,
            socket,
            client_id="client",
            limits=limits or ClientLimits(),
            topics=topics,
        )
        return connection, socket

    def state(self, resident: Resident) -> dict[str, Any]:
        """The panel's state as Python values."""
        return {key: json.loads(value) for key, value in resident.panel.state.items()}


def only(*names: str) -> Topics:
    """These topics and no others."""
    topics = Topics()
    topics.remove(["state", "events"])
    topics.add(names)
    return topics
