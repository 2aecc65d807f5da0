"""Handlers that wait: how they are parked, answered, resumed, cancelled, and found again after a restart.

    Commits ──park──▶ Suspensions ──Callers.call──▶ extensions, timers, people
    Commits ◀─ Intake ◀─resume── Suspensions ◀──answered──┘

A step's effects, its image and its open calls are in one batch, and the calls are made when the batch is
durable. An answer is recorded before the handler is given it, so that no call is made again that was
answered. A call that was made and not answered when the gateway ended is made again with the same key, or
fails, as its extension declares: at least once.

Bounds: ``SuspensionLimits``; a handler that would pass them fails instead. Images are in memory only until
they are folded, and while a handler is resumed (``resuming``).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from panels_gateway.access.tokens import subject_of
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.journal.journal import Journal, JournalError, Waiting
from panels_gateway.journal.records import Exchange, Parked, Ran, Returned, Unparked
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.exclusive import Exclusive
from panels_gateway.kernel.image_bytes import ImageBytes
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.resuming import Resuming
from panels_gateway.kernel.suspension import Suspension, seal
from panels_gateway.kernel.turn import Turn
from panels_gateway.panels.trigger import NOBODY, Failure, Progress, Refused, Trigger
from panels_shared.errors import RequestError
from panels_shared.limits import MIB
from panels_shared.messages import Answered, Tool
from panels_shared.outcome import ExtensionCall, Failed, Reason, Suspended, Usage

_log = logging.getLogger("panels.gateway.suspensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspensionLimits:
    """How many handlers may wait, of one panel and in all, how many bytes their images may have, and for how
    long a handler may wait at the most, in milliseconds.
    """

    per_panel: int = 100
    total: int = 10_000
    bytes_per_panel: int = 64 * MIB
    total_bytes: int = 1_024 * MIB
    lifetime_ms: int = 7 * 24 * 3_600 * 1_000


class Callers(Protocol):
    """Whoever makes the calls of handlers, and answers each once by ``Suspensions.answered``."""

    def call(self, suspension: Suspension, call: ExtensionCall, *, again: bool) -> None:
        """Makes a call. ``again``: it may have been made before, by a gateway that ended."""
        ...

    def cancel(self, suspension: Suspension, call: ExtensionCall) -> None:
        """Nobody wants the answer any more."""
        ...


class Suspensions:
    """See the module's docstring. ``callers`` is set once, before anything is suspended."""

    callers: Callers

    def __init__(
        self,
        dispatcher: Dispatcher,
        residents: Residents,
        answering: Answering,
        turn: Turn,
        journal: Journal,
        counters: Counters,
        limits: SuspensionLimits,
        *,
        key: bytes,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bits: Callable[[int], int],
    ) -> None:
        self.limits = limits
        self.count = 0
        self.images = ImageBytes()
        self.resuming = Resuming(
            dispatcher,
            residents,
            turn,
            journal,
            self.fail,
            key=key,
            clock=clock,
            wall_clock=wall_clock,
            random_bits=random_bits,
        )
        self._exclusive = Exclusive(dispatcher, answering, self.resuming, clock=clock)
        self._residents = residents
        self._answering = answering
        self._turn = turn
        self._journal = journal
        self._key = key
        self._clock = clock
        self._wall_clock = wall_clock
        self._counters = counters
        self._deadlines: dict[Suspension, asyncio.TimerHandle] = {}

    def now_ms(self) -> int:
        """The wall clock."""
        return int(self._wall_clock() * 1000)

    # -- parking -------------------------------------------------------------------------------------

    def of(self, trigger: Trigger, resident: Resident) -> Suspension | None:
        """The suspension that ``trigger`` resumes; None for one that resumes none, or one that is over."""
        return None if trigger.resume is None else resident.waiting.get(trigger.resume.suspension)

    def refusal(self, trigger: Trigger, resident: Resident, outcome: Suspended) -> str | None:
        """Why a handler may not wait, None when it may. One that waits already may wait again, with an image
        that is no larger, whatever the bounds are by now.
        """
        known = self.of(trigger, resident)
        limits, panel = self.limits, resident.panel.number
        if trigger.resume is None:
            if len(resident.waiting) >= limits.per_panel:
                most = limits.per_panel
                return f"expected at most {most} handlers of a panel that wait; answer or cancel some"
            if self.count >= limits.total:
                return f"expected at most {limits.total} handlers that wait, in all panels; try again later"
        more = len(outcome.image) - (known.image_bytes if known is not None else 0)
        if more <= 0:
            return None
        if (found := self.images.of(panel) + more) > limits.bytes_per_panel:
            return (
                f"expected handlers of a panel that wait to keep at most {limits.bytes_per_panel} bytes, got "
                f"{found}; answer or cancel some, or keep less across an await"
            )
        if (found := self.images.total + more) > limits.total_bytes:
            return (
                f"expected handlers that wait to keep at most {limits.total_bytes} bytes in all panels, got "
                f"{found}; try again later, or keep less across an await"
            )
        return None

    def next_number(self) -> int:
        """A number for a suspension; random, so that it says nothing and need not be kept."""
        return secrets.randbits(47) + 1

    def park(self, trigger: Trigger, resident: Resident, outcome: Suspended, number: int) -> None:
        """The handler of ``trigger`` waits: records it and has its new calls made once that is durable."""
        known = self.of(trigger, resident)
        origin = known.origin if known is not None else trigger
        now_ms = self.now_ms()
        calls = [*(known.still_open() if known is not None else ()), *outcome.calls]
        made_ms = known.made_ms if known is not None else {}
        record = Parked(
            resident.panel.number,
            number,
            now_ms,
            known.record.deadline_ms if known is not None else now_ms + self.limits.lifetime_ms,
            trigger.tool.name,
            trigger.tool.digest,
            origin.args,
            origin.scope,
            tuple(calls),
            outcome.image,
            seal(self._key, resident.panel.number, number, trigger.tool.digest, outcome.image),
            (known.record.steps if known is not None else 0) + 1,
            origin.depth,
            origin.request_id,
            origin.key,
            tuple(made_ms.get(call.call, now_ms) for call in calls),
            known.take_exchanges({call.call for call in calls}) if known is not None else (),
        )
        self._residents.recorded(resident, record, self._turn.record(record))
        before = known.image_bytes if known is not None else 0
        self.images.change(record.panel, before, len(outcome.image))
        if known is None:
            known = resident.waiting[number] = Suspension(record, origin)
            self.count += 1
            self._set_deadline(known)
            self._exclusive.hold(known, resident)
        else:
            known.park(record)
        suspension = known
        waiters = [origin, *(resident.answers.followers(origin.key) if origin.key is not None else ())]
        for call in outcome.calls:
            progress = Progress(suspension.name, call.extension, call.method, record.steps)
            for waiter in waiters:
                waiter.reply_to.progress(waiter, progress)
        self._turn.after(lambda: self._call(suspension, outcome.calls))
        if suspension.answers:
            self.resume(suspension)

    def _call(self, suspension: Suspension, calls: tuple[ExtensionCall, ...]) -> None:
        for call in calls:
            if suspension.is_open(call.call):
                self.callers.call(suspension, call, again=False)

    # -- answers -------------------------------------------------------------------------------------

    def answered(
        self,
        suspension: Suspension,
        call: int,
        *,
        ok: bool,
        value: bytes,
        exchanges: tuple[Exchange, ...] = (),
    ) -> bool:
        """A call was answered: records that and resumes the handler. False when nobody waits for it any
        more.
        """
        resident = self._residents.of(suspension.origin.panel)
        if resident is None or not suspension.is_open(call):
            return False
        self._turn.divide()
        suspension.answer(Answered(call, ok, value), exchanges)
        record = Returned(resident.panel.number, suspension.number, call, ok, value, exchanges)
        self._residents.recorded(resident, record, self._turn.record(record))
        self.resume(suspension)
        self._turn.request_seal()
        return True

    def resume(self, suspension: Suspension) -> None:
        """Has the handler go on with the answers that there are, unless it runs or is about to."""
        self.resuming.want(suspension)

    def came_back(self, trigger: Trigger) -> None:
        """A resumption has been run, or will not be. Called once for each that was offered."""
        self.resuming.came_back(trigger)

    def take_back(self, trigger: Trigger, resident: Resident) -> None:
        """A resumption was not run, because its panel's lane went away: the handler goes on waiting, and is
        resumed again.
        """
        self.resuming.take_back(self.of(trigger, resident), trigger)

    # -- the end -------------------------------------------------------------------------------------

    def end(self, suspension: Suspension) -> None:
        """The suspension is over: records that, and cancels what is open. The caller answers its trigger."""
        if suspension.over:
            return
        suspension.over = True
        resident = self._residents.of(suspension.origin.panel)
        if resident is not None:
            del resident.waiting[suspension.number]
            record = Unparked(resident.panel.number, suspension.number)
            self._residents.recorded(resident, record, self._turn.record(record))
            if resident.holder is suspension:
                self._exclusive.release(resident)
        self.count -= 1
        self.images.change(suspension.record.panel, suspension.image_bytes, 0)
        handle = self._deadlines.pop(suspension, None)
        if handle is not None:
            handle.cancel()
        for call in suspension.calls.values():
            if call.call not in suspension.answers:
                self.callers.cancel(suspension, call)

    @property
    def held(self) -> int:
        """Triggers that stand behind exclusive handlers."""
        return self._exclusive.count

    def refuse_held(self, refused: Refused, *, before_s: float) -> None:
        """Answers the triggers that stand behind an exclusive handler and were submitted before ``before_s``,
        in monotonic seconds.
        """
        self._exclusive.refuse_held(refused, before_s=before_s)

    def fail(self, suspension: Suspension, reason: Reason, message: str) -> None:
        """Ends a suspension whose handler will not go on, and answers its trigger with an ERROR."""
        if suspension.over:
            return
        self._turn.divide()
        self._counters.failed[reason] += 1
        origin = suspension.origin
        resident = self._residents.of(origin.panel)
        self.end(suspension)
        steps = suspension.record.steps
        outcome = Failed(Usage(fuel=-1), reason, message, details=b'{"steps":%d}' % steps)
        record = None
        if origin.key is not None and resident is not None:
            record = Ran(
                resident.panel.number, 0, self.now_ms(), origin.tool.name, origin.tool.digest, origin.args,
                origin.scope, origin.now_ms, origin.seed, outcome, 0, 0, origin.key,
                suspension.take_exchanges(), steps,
            )  # fmt: skip
            self._residents.recorded(resident, record, self._turn.record(record))
        self._answering.settle(origin, Failure(outcome), record, resident)
        self._turn.request_seal()

    def drop(self, resident: Resident, refused: Refused) -> None:
        """The panel is deleted: its handlers that wait are over, and their triggers are refused."""
        held = self._exclusive.abandon(resident)
        waiting = list(resident.waiting.values())
        # all are over before anybody is answered: who is answered may be one of them
        for suspension in waiting:
            self.end(suspension)
        for trigger in (*held, *(suspension.origin for suspension in waiting)):
            self._answering.refuse(trigger, refused)

    def replaced(self, resident: Resident) -> None:
        """The panel's tools were replaced: handlers that wait and are not what they were are over."""
        tools = resident.panel.tools
        for suspension in list(resident.waiting.values()):
            tool = tools.get(suspension.record.tool)
            if tool is None or tool.digest != suspension.record.digest:
                self.fail(suspension, Reason.RESUME_FAILED, "the handler was replaced while it waited")

    # -- after a restart -----------------------------------------------------------------------------

    def restore(self, resident: Resident, waiting: list[Waiting]) -> None:
        """The panel was loaded, with these suspensions: their open calls are made again, and their answers
        are given.
        """
        panel = resident.panel
        for found in sorted(waiting, key=lambda found: found.parked.deadline_ms):
            record = found.parked
            tool = panel.tools.get(record.tool)
            origin = Trigger(
                panel=panel,
                tool=tool if tool is not None else _missing_tool(record),
                args=record.args,
                scope=record.scope,
                subject=subject_of(record.scope),
                now_ms=float(record.at_ms),
                seed=0,
                submitted_s=self._clock(),
                reply_to=NOBODY,
                request_id=record.request_id,
                key=record.key,
                depth=record.depth,
            )
            suspension = resident.waiting[record.suspension] = Suspension(
                record, origin, image_bytes=found.image_bytes
            )
            self.count += 1
            self.images.change(record.panel, 0, found.image_bytes)
            if record.key is not None:
                resident.answers.begin(record.key)
            self._set_deadline(suspension)
            self._exclusive.hold(suspension, resident)
            for returned in found.returned:
                if returned.call in suspension.calls:
                    answered = Answered(returned.call, returned.ok, returned.value)
                    suspension.answer(answered, returned.exchanges)
            for call in list(suspension.calls.values()):
                if suspension.is_open(call.call):
                    self.callers.call(suspension, call, again=True)
            self.resume(suspension)

    async def find_all(self) -> None:
        """Loads every panel that has suspensions or tools that run at times, one after the other, so that
        those go on: the one with the earliest deadline first.
        """
        for panel_id in await self._journal.active_panels():
            try:
                await self._residents.open(panel_id)
            except (JournalError, RequestError) as exc:
                _log.error("panel %r has handlers that wait, and cannot be loaded: %s", panel_id, exc)

    def _set_deadline(self, suspension: Suspension) -> None:
        seconds = max(0.0, (suspension.record.deadline_ms - self.now_ms()) / 1000)
        self._deadlines[suspension] = asyncio.get_running_loop().call_later(
            seconds,
            self.fail,
            suspension,
            Reason.TIMEOUT,
            "nobody answered in time, and the handler waited no longer",
        )


def _missing_tool(record: Parked) -> Tool:
    # its panel has no tool of that name any more: this one stands for it in the answer
    return Tool(0, record.digest, "javascript", "", record.tool, (0, 0, 0, 0, 0, 0, 0), ())
