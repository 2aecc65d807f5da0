"""Replays: a recorded trigger runs once more, on the state that it saw, and nothing of it is kept.

A record holds all that a handler can see: arguments, scope, clock, seed, and by its version the state before.
So it ends as it did before, bit for bit, unless the engine has changed or the handler depends on something
that it should not be able to see. What the tool may do and use is not recorded, and is taken from the panel
as it is now.

The run has a panel of its own that is in no list, and a lane of its own: it waits for no trigger of the
panel, and none waits for it. It is charged like a trigger of whoever asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.journal.records import Ran
from panels_gateway.kernel import claims
from panels_gateway.kernel.claims import InvalidOutcomeError
from panels_gateway.kernel.history import Histories
from panels_gateway.kernel.preparer import Preparer
from panels_gateway.kernel.questions import HUMAN, METHODS
from panels_gateway.kernel.quotas import Quotas
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.turn import Turn
from panels_gateway.panels import stored
from panels_gateway.panels.panel import Panel
from panels_gateway.panels.trigger import Answer, Progress, Refused, Trigger
from panels_shared.errors import Code, RequestError
from panels_shared.limits import KIB
from panels_shared.messages import PanelKey, Tool
from panels_shared.outcome import Completed, Failed, Outcome, Reason, Suspended

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.panels.definition import HandlerSource

#: Replays that are under way; each has a state in memory. A security limit.
MAX_REPLAYS: Final = 4
#: About what is read of history to find one commit, in bytes; the first is read whole.
_PAGE_BYTES: Final = KIB


@dataclass(frozen=True, slots=True)
class Replayed:
    """How the trigger of ``record`` ended this time. ``differences`` names what was otherwise.

    ``outcome``: it completed, failed or waited where it did not before. Else ``fuelConsumed``,
    ``returnValue``, ``mutations``, ``events``, ``viewCommands``, ``calls`` and ``log``, and of a failure
    ``reason`` and ``message``.
    """

    record: Ran
    outcome: Outcome
    differences: tuple[str, ...]


class Replays:
    """See the module's docstring."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        residents: Residents,
        histories: Histories,
        journal: Journal,
        preparer: Preparer,
        turn: Turn,
        quotas: Quotas,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._dispatcher = dispatcher
        self._residents = residents
        self._histories = histories
        self._journal = journal
        self._preparer = preparer
        self._turn = turn
        self._quotas = quotas
        self._clock = clock
        self._reserved = 0
        self._running: dict[PanelKey, _Caller] = {}

    async def replay(self, resident: Resident, seq: int, principal: Principal) -> Replayed:
        """Runs the trigger that made version ``seq`` once more.

        Raises ``RequestError``: INVALID_REQUEST (no such version, or no trigger made it), HISTORY_GONE,
        CONFLICT (the panel has no such tool any more), INVALID_HANDLER, UNAVAILABLE, OVERLOADED,
        QUOTA_EXCEEDED.
        """
        if self._reserved >= MAX_REPLAYS:
            details = {"retryAfterMs": 1_000, "scope": "replays"}
            raise RequestError(Code.OVERLOADED, f"{MAX_REPLAYS} replays are under way already", details)
        self._reserved += 1
        try:
            record = await self._record(resident, seq)
            panel, tool = await self._ghost(resident, record, principal)
            outcome = await self._run(panel, tool, record, principal)
        finally:
            self._reserved -= 1
        return Replayed(record, outcome, differences(record.outcome, outcome))

    async def _record(self, resident: Resident, seq: int) -> Ran:
        panel = resident.panel
        if not 1 <= seq <= panel.seq:
            raise RequestError(
                Code.INVALID_REQUEST, f"seq: expected 1 to {panel.seq}, got {seq}", {"path": "seq"}
            )
        page = await self._histories.since(resident, seq - 1, limit_bytes=_PAGE_BYTES, limit=1)
        record = page.commits[0] if page is not None and page.commits else None
        if record is None or record.seq != seq:
            raise RequestError(
                Code.HISTORY_GONE, f"version {seq} of panel {panel.id!r} is older than its history"
            )
        if not isinstance(record, Ran):
            raise RequestError(
                Code.INVALID_REQUEST,
                f"seq: expected a version that a trigger made; {record.cause!r} made version {seq}",
                {"path": "seq"},
            )
        if record.step:
            raise RequestError(
                Code.INVALID_REQUEST,
                f"seq: expected a version that a handler made before it waited; version {seq} was made "
                f"behind {record.step} waits, and what it went on from is not kept",
                {"path": "seq"},
            )
        return record

    async def _ghost(self, resident: Resident, record: Ran, principal: Principal) -> tuple[Panel, Tool]:
        """A panel that only this run knows: with the state that the trigger saw, and its tool alone."""
        panel = resident.panel
        definition = panel.definition
        tool = next((tool for tool in definition.tools if tool.name == record.tool), None)
        if tool is None:
            raise RequestError(
                Code.CONFLICT,
                f"the panel has no tool {record.tool!r} any more, and what that tool may do is not recorded",
            )
        # this waits until all records before are folded, so that the journal knows of their handlers too
        state = await self._histories.state_at(resident, record.seq - 1)
        if tool.handler.digest != record.digest:
            tool = replace(tool, handler=await self._handler(record))
        definition = replace(definition, tools=(tool,), initial_state=None)
        await self._preparer.prepare(definition, subject=principal.subject or "")
        tools = self._residents.tools(definition)
        ghost = Panel(
            key=self._residents.next_key(),
            number=panel.number,
            id=panel.id,
            definition=definition,
            tools=tools,
            created_ms=panel.created_ms,
            limits=panel.limits,
            state=state,
            seq=record.seq - 1,
            epoch=panel.epoch,
        )
        return ghost, tools[tool.name]

    async def _handler(self, record: Ran) -> HandlerSource:
        """The handler that ran, which the panel does not have any more."""
        try:
            source = await self._journal.source(record.digest)
        except JournalError as exc:
            raise RequestError(Code.INTERNAL, "the handler is stored but cannot be read") from exc
        if source is None:
            raise RequestError(Code.HISTORY_GONE, f"the handler of version {record.seq} is not kept any more")
        return stored.handler(source)

    async def _run(self, panel: Panel, tool: Tool, record: Ran, principal: Principal) -> Outcome:
        caller = _Caller()
        trigger = Trigger(
            panel=panel,
            tool=tool,
            args=record.args,
            scope=record.scope,
            # who replays is charged, and the handler sees who triggered
            subject=principal.subject or "",
            now_ms=record.now_ms,
            seed=record.seed,
            submitted_s=self._clock(),
            reply_to=caller,
        )
        refused = self._quotas.exceeded(trigger, trigger.submitted_s)
        if refused is not None:
            raise RequestError(refused.code, refused.message, refused.details)
        self._residents.attach(panel)
        self._running[panel.key] = caller
        try:
            self._dispatcher.offer(trigger, self._clock())
            self._turn.request_seal()
            return await caller.outcome
        except OverloadedError as exc:
            details = {"retryAfterMs": exc.retry_after_ms, "scope": exc.scope}
            raise RequestError(Code.OVERLOADED, f"the queue of the {exc.scope} is full", details) from None
        finally:
            del self._running[panel.key]
            self._residents.detach(panel)
            self._turn.request_seal()

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """A worker said how a replay ended. False when it reported what the handler cannot have done."""
        trigger = run.trigger
        self._dispatcher.confirm(run)
        caller = self._running.get(trigger.panel.key)
        if caller is None:
            return True
        self._quotas.charge(trigger, outcome.usage, self._clock())
        honest = True
        if not isinstance(outcome, Failed):
            try:
                effects = claims.check(outcome, trigger.tool)
            except InvalidOutcomeError as exc:
                honest = False
                outcome = Failed(outcome.usage, Reason.INVALID_RESULT, str(exc))
            else:
                outcome = claims.canonical(outcome, effects[0])
        if not caller.outcome.done():
            caller.outcome.set_result(outcome)
        return honest


class _Caller:
    """Who waits for one replay."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        """The trigger was not run, or no worker could."""
        if self.outcome.done():
            return
        if isinstance(answer, Refused):
            self.outcome.set_exception(RequestError(answer.code, answer.message, answer.details))
        else:
            self.outcome.set_result(answer.outcome)

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        """Not called: what a replay waits for is not asked."""


def differences(before: Outcome, now: Outcome) -> tuple[str, ...]:
    """What of the two ends of a run is not the same; names as clients see them."""
    if type(before) is not type(now):
        return ("outcome",)
    pairs: list[tuple[str, object, object]] = [("fuelConsumed", before.usage.fuel, now.usage.fuel)]
    if isinstance(before, Failed) and isinstance(now, Failed):
        pairs += [("reason", before.reason, now.reason), ("message", before.message, now.message)]
    else:
        assert not isinstance(before, Failed)
        assert not isinstance(now, Failed)
        if isinstance(before, Completed) and isinstance(now, Completed):
            pairs.append(("returnValue", before.return_value, now.return_value))
        pairs += [
            ("mutations", before.mutations, now.mutations),
            ("events", _emitted(before), now.events),
            ("viewCommands", before.view_commands, now.view_commands),
        ]
        if isinstance(before, Suspended) and isinstance(now, Suspended):
            pairs.append(("calls", before.calls, now.calls))
    pairs.append(("log", before.log, now.log))
    return tuple(name for name, then, today in pairs if then != today)


def _emitted(outcome: Completed | Suspended) -> tuple[bytes, ...]:
    """The events of the handler's own: the kernel put those behind them that show its questions."""
    if isinstance(outcome, Completed):
        return outcome.events
    asked = sum(call.extension == HUMAN and call.method in METHODS for call in outcome.calls)
    return outcome.events[: len(outcome.events) - asked]
