"""The kernel: the panels there are, and what happens between a trigger and its answer.

    connection / http ── submit ──▶ dispatcher ──▶ broker ──▶ worker
    hub ◀── commit, broadcast, answer ── finish ◀── accept ◀──┘

It is the only writer of panel state. Every job that was accepted is answered once: by ``finish`` (the worker said how it
ended), ``failed`` (no worker could) or because its panel went away. A commit, its broadcast and its answer are one
synchronous step, so that no client can see one without the other.

One thread, one loop. Nothing here blocks or awaits except the making of panels, which waits for workers to compile handlers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.hub import Hub, Room
from panels_gateway.broadcast.messages import EmittedEvent
from panels_gateway.clients.connection import ClientLimits
from panels_gateway.dispatch.catalog import Handler, Preparation
from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.dispatch.job import Job
from panels_gateway.http.waiter import HttpWaiter
from panels_gateway.observe.handler_log import HandlerLog
from panels_gateway.observe.stages import Stages
from panels_gateway.panels.panel import CommitRefusedError, Mutation, Panel, StateLimits
from panels_shared.errors import CloseCode, Code, PanelsError, RequestError
from panels_shared.messages import JobId, PanelKey, Refusal, Tool, ToolKey
from panels_shared.outcome import Completed, Failed, Outcome, Reason, Usage

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.clients.connection import Connection
    from panels_gateway.panels.definition import PanelDefinition, ToolDefinition

_log = logging.getLogger("panels.gateway.kernel")
#: How long making a panel waits for its handlers, in seconds; preparing has shorter limits of its own.
PREPARE_TIMEOUT_S: Final = 30.0

_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


class Caller(Protocol):
    """Whoever waits for a job's answer."""

    def answer(self, payload: bytes) -> None:
        """The one RESULT or ERROR message, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLimits:
    """Bounds of what the kernel holds: ``panels`` in all, and those of each panel's state and each client."""

    panels: int = 10_000
    state: StateLimits = field(default_factory=StateLimits)
    client: ClientLimits = field(default_factory=ClientLimits)


class InvalidOutcomeError(PanelsError):
    """A worker said that a job completed, with something that is not what it must be."""


@dataclass(slots=True)
class Counters:
    """What has happened since the start; ``metrics`` shows them."""

    triggers: int = 0
    completed: int = 0
    failed: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    refused_commits: int = 0
    overloaded: int = 0
    connections: int = 0
    connections_total: int = 0


class Kernel:
    """See the module's docstring. ``request_flush`` is set by whoever drives it: it must call ``flush`` once, soon."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        limits: KernelLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        stages: Stages | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.limits = limits or KernelLimits()
        self.clock = clock
        self.wall_clock = wall_clock
        self.hub = Hub()
        self.panels: dict[str, Panel] = {}
        self.counters = Counters()
        self.stages = stages or Stages()
        self.request_flush: Callable[[], None] = _nothing
        self.closing = False
        self._handler_log = HandlerLog(clock())
        self._rooms: dict[PanelKey, Room] = {}
        self._connections: dict[Connection, None] = {}
        self._preparing: dict[bytes, list[asyncio.Future[Refusal | None]]] = {}
        self._reserved: set[str] = set()
        self._next_panel = 0
        self._next_tool = 0
        self._next_job = 0

    # -- panels ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a worker can run a job."""
        return self.dispatcher.ready and not self.closing

    @property
    def unanswered(self) -> int:
        """Triggers that were accepted and are not answered yet, apart from what waits with its connection."""
        return self.dispatcher.stats()["jobs"]

    def room(self, panel: Panel) -> Room:
        """The panel's watchers."""
        return self._rooms[panel.key]

    async def create_panel(self, definition: PanelDefinition) -> Panel:
        """Makes a panel once all its handlers are compiled.

        Raises ``RequestError``: PANEL_EXISTS, TOO_MANY_PANELS, INVALID_HANDLER, UNAVAILABLE.
        """
        panel_id = definition.id or secrets.token_urlsafe(12)
        if panel_id in self.panels or panel_id in self._reserved:
            raise RequestError(
                Code.PANEL_EXISTS, f"a panel {panel_id!r} exists; choose another id, or PUT to replace it"
            )
        if len(self.panels) + len(self._reserved) >= self.limits.panels:
            raise RequestError(
                Code.TOO_MANY_PANELS,
                f"the gateway holds its maximum of {self.limits.panels} panels; delete one first",
                {"retryAfterMs": 1_000},
            )
        self._reserved.add(panel_id)
        try:
            await self._prepare(definition)
        finally:
            self._reserved.discard(panel_id)
        panel = self._build(panel_id, definition, created_ms=int(self.wall_clock() * 1000))
        self.panels[panel_id] = panel
        self._rooms[panel.key] = Room(self.hub)
        self.dispatcher.add_panel(panel, list(panel.tools.values()), _handlers(definition))
        return panel

    async def replace_panel(self, panel_id: str, definition: PanelDefinition) -> Panel:
        """Gives the panel this definition: its tools are replaced, and its state too where the definition has an
        ``initialState`` (as one version, broadcast as a PATCH). Watchers stay. Triggers not yet run are run by the new tools.

        Raises ``RequestError``: PANEL_NOT_FOUND, INVALID_HANDLER, UNAVAILABLE.
        """
        self._panel(panel_id)
        await self._prepare(definition)
        panel = self._panel(panel_id)  # it may have gone while the handlers were compiled
        unanswered = self.dispatcher.remove_panel(panel)
        panel.definition = definition
        panel.tools = self._build_tools(definition)
        self.dispatcher.add_panel(panel, list(panel.tools.values()), _handlers(definition))
        if definition.initial_state is not None:
            seq, changes = panel.replace_state(definition.initial_state)
            mutations_json = messages.changes_json(changes)
            self.room(panel).publish(seq, messages.decode_mutations(mutations_json), mutations_json, [])
            self.dispatcher.invalidate(panel)
        for job in unanswered:
            tool = panel.tools.get(job.tool.name)
            if tool is None:
                self._answer_error(
                    job, Code.TOOL_NOT_FOUND, f"the panel was replaced and has no tool {job.tool.name!r}"
                )
            else:
                job.tool = tool
                self.submit(job)
        self.request_flush()
        return panel

    def delete_panel(self, panel_id: str) -> None:
        """Removes the panel: what waits is answered PANEL_NOT_FOUND and its clients are closed with 4404.

        Raises ``RequestError``: PANEL_NOT_FOUND.
        """
        panel = self._panel(panel_id)
        del self.panels[panel_id]
        for job in self.dispatcher.remove_panel(panel):
            self._answer_error(job, Code.PANEL_NOT_FOUND, f"the panel {panel_id!r} was deleted")
        self.hub.flush()
        for connection in [c for c in self._connections if c.panel is panel]:
            connection.close(CloseCode.PANEL_DELETED, "the panel was deleted")
        del self._rooms[panel.key]
        self._handler_log.forget(panel.key)
        self.request_flush()

    def _panel(self, panel_id: str) -> Panel:
        panel = self.panels.get(panel_id)
        if panel is None:
            raise RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {panel_id!r}")
        return panel

    def _build(self, panel_id: str, definition: PanelDefinition, *, created_ms: int) -> Panel:
        self._next_panel += 1
        return Panel(
            key=PanelKey(self._next_panel),
            id=panel_id,
            definition=definition,
            tools=self._build_tools(definition),
            created_ms=created_ms,
            limits=self.limits.state,
            state=dict(definition.initial_state or {}),
        )

    def _build_tools(self, definition: PanelDefinition) -> Mapping[str, Tool]:
        return {tool.name: self._build_tool(tool) for tool in definition.tools}

    def _build_tool(self, tool: ToolDefinition) -> Tool:
        self._next_tool += 1
        limits = tool.limits
        return Tool(
            tool=ToolKey(self._next_tool),
            digest=tool.handler.digest,
            language=tool.handler.language,
            entry=tool.handler.entry,
            name=tool.name,
            limits=(
                limits.fuel,
                limits.deadline_ms,
                limits.memory_bytes,
                limits.host_calls,
                limits.output_bytes,
                limits.events,
                limits.log_bytes,
            ),
            capabilities=tool.capabilities,
        )

    async def _prepare(self, definition: PanelDefinition) -> None:
        now = self.clock()
        waiting: dict[bytes, asyncio.Future[Refusal | None]] = {}
        for tool in definition.tools:
            handler = tool.handler
            if handler.digest in waiting:
                continue
            known = self.dispatcher.prepare(handler, now)
            if isinstance(known, Refusal):
                raise _invalid_handler(tool.name, known)
            if known is Preparation.PENDING:
                future: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
                self._preparing.setdefault(handler.digest, []).append(future)
                waiting[handler.digest] = future
        if not waiting:
            return
        self.request_flush()
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await asyncio.wait(waiting.values())
        except TimeoutError:
            raise RequestError(
                Code.UNAVAILABLE, "no worker compiled the handlers in time; try again"
            ) from None
        finally:
            for digest, future in waiting.items():
                if not future.done():
                    future.cancel()
                    self._preparing[digest].remove(future)
        for tool in definition.tools:
            if (waited := waiting.get(tool.handler.digest)) is None:
                continue
            refusal = waited.result()
            if refusal is not None:
                if refusal.code == "unavailable":
                    raise RequestError(Code.UNAVAILABLE, refusal.message, {"retryAfterMs": 1_000})
                raise _invalid_handler(tool.name, refusal)

    def prepared(self, digest: bytes, refusal: Refusal | None) -> None:
        """From the broker: a handler was compiled by a worker, or never will be."""
        for future in self._preparing.pop(digest, ()):
            if not future.done():
                future.set_result(refusal)

    # -- clients -----------------------------------------------------------------------------------------

    def connection_opened(self, connection: Connection) -> None:
        """A client's upgrade was accepted."""
        self._connections[connection] = None
        self.counters.connections += 1
        self.counters.connections_total += 1

    def connection_lost(self, connection: Connection) -> None:
        """A client's socket is gone."""
        if self._connections.pop(connection, self) is None:
            self.counters.connections -= 1

    # -- triggers ----------------------------------------------------------------------------------------

    def accept_trigger(
        self,
        caller: Caller,
        panel: Panel,
        tool_name: str,
        args: Any,
        principal: Principal,
        request_id: str | None,
    ) -> Job:
        """A job for a trigger. Raises ``RequestError``: PANEL_NOT_FOUND, TOOL_NOT_FOUND, FORBIDDEN, UNAVAILABLE."""
        if self.panels.get(panel.id) is not panel:
            raise RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {panel.id!r} any more")
        tool = panel.tools.get(tool_name)
        if tool is None:
            raise RequestError(
                Code.TOOL_NOT_FOUND, f"expected a tool of panel {panel.id!r}, got {tool_name!r}"
            )
        if not principal.may_trigger(panel.id, tool_name):
            raise RequestError(
                Code.FORBIDDEN, f"the token does not allow trigger:{tool_name} on panel {panel.id!r}"
            )
        if self.closing:
            raise RequestError(
                Code.UNAVAILABLE, "the gateway is shutting down; connect again", {"retryAfterMs": 1_000}
            )
        self._next_job += 1
        return Job(
            id=JobId(self._next_job),
            panel=panel,
            tool=tool,
            args=bytes(args),
            scope=principal.scope,
            now_ms=float(int(self.wall_clock() * 1000)),
            seed=random.getrandbits(64),
            caller=caller,
            request_id=request_id,
            submitted_s=self.clock(),
        )

    def submit(self, job: Job) -> None:
        """Queues an accepted job; over a bound it is answered OVERLOADED at once."""
        self.counters.triggers += 1
        try:
            self.dispatcher.submit(job, self.clock())
        except OverloadedError as exc:
            self.counters.overloaded += 1
            message = f"the queue of the {exc.scope} is full; try again later"
            details = {"retryAfterMs": exc.retry_after_ms, "scope": exc.scope}
            job.caller.answer(messages.error(Code.OVERLOADED, message, job.request_id, details))
        self.request_flush()

    async def trigger(
        self, panel: Panel, tool_name: str, args: bytes, principal: Principal, request_id: str | None
    ) -> bytes:
        """Runs a tool for someone who is not connected; the RESULT or ERROR message. Raises as ``accept_trigger``."""
        waiter = HttpWaiter(asyncio.get_running_loop().create_future())
        self.submit(self.accept_trigger(waiter, panel, tool_name, args, principal, request_id))
        return await waiter.future

    # -- results -----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Sends clients what has come up since the last flush: from the broker, at the end of a turn."""
        stages = self.stages
        stages.flushes -= 1
        if stages.flushes > 0:
            self.hub.flush()
            return
        began_s = time.perf_counter()
        self.hub.flush()
        stages.flushed(began_s)

    def finish(self, job: Job, outcome: Outcome) -> bool:
        """Commits, broadcasts and answers; False when the commit was refused and the worker must roll back."""
        if outcome.log:
            self._handler_log.write(job.panel.key, job.panel.id, job.tool.name, outcome.log, self.clock())
        if isinstance(outcome, Failed):
            self._answer_failed(job, outcome)
            return True
        panel: Panel = job.panel
        stages = self.stages
        stages.finishes -= 1
        began_s = time.perf_counter() if stages.finishes <= 0 else 0.0
        try:
            mutations, events = _check(outcome)
            seq = panel.commit(mutations) if mutations else panel.seq
        except (InvalidOutcomeError, CommitRefusedError) as exc:
            self.counters.refused_commits += 1
            reason = Reason.LIMIT_EXCEEDED if isinstance(exc, CommitRefusedError) else Reason.INVALID_RESULT
            self._answer_failed(job, Failed(outcome.usage, reason, str(exc)))
            return False
        if mutations or events:
            self._rooms[panel.key].publish(seq, mutations, outcome.mutations, events)
        self.counters.completed += 1
        submitted_s = job.submitted_s
        now = self.clock()
        job.caller.answer(
            messages.result(
                job.request_id,
                outcome,
                seq,
                int((job.sent_s - submitted_s) * 1e6),
                int((now - submitted_s) * 1e6),
            )
        )
        if began_s:
            stages.finished(job, outcome.usage.execution_us, now, began_s)
        return True

    def failed(self, job: Job, reason: Reason, message: str) -> None:
        """From the broker: no worker could run the job."""
        self._answer_failed(job, Failed(Usage(fuel=-1), reason, message))

    def _answer_failed(self, job: Job, outcome: Failed) -> None:
        self.counters.failed[outcome.reason] += 1
        details = messages.failure_details(outcome)
        message = outcome.message[: messages.MAX_FAILURE_CHARS]
        job.caller.answer(messages.error(Code.EXECUTION_ERROR, message, job.request_id, details))

    def _answer_error(self, job: Job, code: Code, message: str) -> None:
        job.caller.answer(messages.error(code, message, job.request_id))


def _check(outcome: Completed) -> tuple[list[Mutation], list[tuple[str, bytes]]]:
    """What a worker reports, checked so that it cannot break a frame: a worker may be compromised."""
    try:
        mutations = messages.decode_mutations(outcome.mutations) if outcome.mutations != b"[]" else []
        events: list[tuple[str, bytes]] = []
        for fragment in outcome.events:
            event: EmittedEvent = messages.decode_event(fragment)
            str(fragment, "utf-8")
            events.append((event.name, fragment))
        str(outcome.mutations, "utf-8")
        if outcome.return_value != b"null":
            _raw_decoder.decode(outcome.return_value)
            str(outcome.return_value, "utf-8")
        if outcome.view_commands != b"[]":
            _raw_decoder.decode(outcome.view_commands)
            str(outcome.view_commands, "utf-8")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidOutcomeError("expected a result of valid JSON, got something else") from None
    return mutations, events


def _handlers(definition: PanelDefinition) -> list[Handler]:
    return [tool.handler for tool in definition.tools]


def _invalid_handler(tool: str, refusal: Refusal) -> RequestError:
    details: dict[str, object] = {"tool": tool, "reason": refusal.code}
    if refusal.line:
        details["location"] = {"line": refusal.line, "column": refusal.column}
        details["line"], details["column"] = refusal.line, refusal.column
    return RequestError(Code.INVALID_HANDLER, f"tool {tool!r}: {refusal.message}", details)


def _nothing() -> None:
    return
