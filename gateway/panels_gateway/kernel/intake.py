"""Where every trigger comes in, whoever sends it: connections, HTTP, timers, other panels, tests.

    accept ──▶ Trigger ──submit──▶ dispatcher        the common way
                         │ key answered before  ──▶ the same answer
                         │ key running now      ──▶ joins it
                         │ key used otherwise   ──▶ CONFLICT
                         │ its tool keeps failing ─▶ CIRCUIT_OPEN
                         │ a quota is used up   ──▶ QUOTA_EXCEEDED
                         └ a queue is full      ──▶ OVERLOADED

Clock, wall clock and random numbers are handed in: they are what a job sees, and what makes it repeatable.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from panels_gateway.dispatch.dispatcher import Dispatcher, OverloadedError
from panels_gateway.journal.journal import Journal, JournalError
from panels_gateway.journal.records import Key, Ran
from panels_gateway.kernel.answering import Answering
from panels_gateway.kernel.breakers import Breakers
from panels_gateway.kernel.counters import Counters
from panels_gateway.kernel.quotas import Quotas
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.turn import Turn
from panels_gateway.observe.tracing import Tracing
from panels_gateway.panels.answers import MAX_FOLLOWERS, MAX_KEY_CHARS, Conflict, Running
from panels_gateway.panels.panel import Panel
from panels_gateway.panels.trigger import Progress, Refused, ReplyTo, Trigger
from panels_shared.errors import Code, RequestError

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal

_log = logging.getLogger("panels.gateway.intake")

#: What is said about when to try again while the journal is behind.
JOURNAL_RETRY_MS: Final = 500
#: Answers that are being read from the journal at a time; a security limit.
MAX_LOOKUPS: Final = 256


class Intake:
    """See the module's docstring. ``closing`` is set once the gateway shuts down, and refuses everything from
    then on.

    ``backlog_bytes`` is how much of the journal may wait to be written or folded; above it new triggers are
    OVERLOADED.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        residents: Residents,
        answering: Answering,
        turn: Turn,
        journal: Journal,
        counters: Counters,
        quotas: Quotas,
        breakers: Breakers,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        random_bits: Callable[[int], int],
        backlog_bytes: int,
    ) -> None:
        self.closing = False
        self.backlog_bytes = backlog_bytes
        self.clock = clock
        #: who takes the spans of triggers; None while nothing is traced
        self.tracing: Tracing | None = None
        self._dispatcher = dispatcher
        self._residents = residents
        self._answering = answering
        self._turn = turn
        self._journal = journal
        self._counters = counters
        self._quotas = quotas
        self._breakers = breakers
        self._wall_clock = wall_clock
        self._random_bits = random_bits
        #: whoever waits for a handler that is suspended, and wants to be told when the gateway stops
        self.patient: set[Callable[[], None]] = set()
        self._lookups: set[asyncio.Task[None]] = set()
        self._looked_at = -1
        self._crowded = False

    def accept(
        self,
        reply_to: ReplyTo,
        panel: Panel,
        tool_name: str,
        args: bytes,
        principal: Principal,
        request_id: str | None,
        idempotency_key: str | None = None,
        *,
        client_id: str | None = None,
        expected_seq: int | None = None,
        depth: int = 0,
        due_ms: int | None = None,
        checked: bool = True,
        traceparent: str | None = None,
    ) -> Trigger:
        """A trigger that may be submitted, now or later. ``client_id`` is that of the connection it came by.
        ``checked``: whether its args have to match the tool's schema.

        Raises ``RequestError``: PANEL_NOT_FOUND, TOOL_NOT_FOUND, FORBIDDEN, INVALID_ARGUMENTS, PARSE_ERROR
        (the key), UNAVAILABLE.
        """
        resident = self._residents.of(panel)
        if resident is None:
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
        if checked and (schema := panel.definition.schemas.get(tool_name)) is not None:
            schema.check(args)
        key = None
        if idempotency_key is not None:
            key = make_key(principal.subject or "", idempotency_key, tool_name, args)
        presence = None
        if tool_name in panel.definition.present:
            presence = resident.presence.subjects() if resident.presence is not None else b"{}"
        return Trigger(
            panel=panel,
            tool=tool,
            args=args,
            scope=principal.scope_in(panel.id, request_id, client_id, presence),
            subject=principal.subject or "",
            now_ms=float(int(self._wall_clock() * 1000)),
            seed=self._random_bits(64),
            submitted_s=self.clock(),
            reply_to=reply_to,
            request_id=request_id,
            key=key,
            expected_seq=expected_seq,
            depth=depth,
            due_ms=due_ms,
            trace=self.tracing.take(traceparent) if self.tracing is not None else None,
        )

    def submit(self, trigger: Trigger) -> None:
        """Has the trigger run, or answers it at once. It is answered exactly once either way."""
        self._counters.triggers += 1
        resident = self._residents.of(trigger.panel)
        if resident is None or resident.ending:
            message = f"there is no panel {trigger.panel.id!r} any more"
            self._answering.turn_away(trigger, Refused(Code.PANEL_NOT_FOUND, message))
        elif trigger.key is None or not self._known(trigger, trigger.key):
            tool = resident.panel.tools.get(trigger.tool.name)
            if tool is None:
                message = f"the panel was replaced and has no tool {trigger.tool.name!r}"
                self._answering.refuse(trigger, Refused(Code.TOOL_NOT_FOUND, message))
            else:
                if tool is not trigger.tool:
                    # the panel was given another definition since the trigger was accepted
                    trigger = trigger.with_tool(tool)
                refused = self._quotas.exceeded(trigger, trigger.submitted_s)
                if refused is None and resident.breakers:
                    refused = self._breakers.refusal(trigger, resident)
                if refused is None:
                    self._offer(trigger)
                else:
                    self._answering.refuse(trigger, refused)
        self._turn.request_seal()

    def take_away(self, trigger: Trigger) -> None:
        """Its caller has gone: the trigger is not run, unless it was sent to a worker or has a key, under
        which the caller may come back.
        """
        resident = self._residents.of(trigger.panel)
        if trigger.key is not None or resident is None:
            return
        if trigger in resident.held:
            resident.held.remove(trigger)
            self._dispatcher.unreserve(trigger)
        elif not self._dispatcher.overdue.drop(trigger):
            return
        trigger.reply_to.answer(trigger, Refused(Code.UNAVAILABLE, "its caller went away before it began"))
        self._turn.request_seal()

    def resubmit(self, trigger: Trigger) -> None:
        """Has a trigger that was submitted before run after all: its panel was given another definition
        meanwhile.
        """
        self._offer(trigger)
        self._turn.request_seal()

    def _offer(self, trigger: Trigger) -> None:
        # the backlog grows when a turn is appended, and is looked at once for each such turn
        if self._crowded or self._looked_at != self._turn.position:
            self._looked_at = self._turn.position
            self._crowded = self.backlogged
            if self._crowded:
                self._overloaded(trigger, "journal", JOURNAL_RETRY_MS)
                return
        resident = self._residents.of(trigger.panel)
        if resident is not None and resident.holder is not None:
            if len(resident.held) >= self._dispatcher.limits.queue_per_panel:
                self._overloaded(trigger, "panel", 1_000)
                return
            try:
                self._dispatcher.reserve(trigger)
            except OverloadedError as exc:
                self._overloaded(trigger, exc.scope, exc.retry_after_ms)
            else:
                resident.held.append(trigger)
            return
        try:
            self._dispatcher.offer(trigger, self.clock())
        except OverloadedError as exc:
            self._overloaded(trigger, exc.scope, exc.retry_after_ms)

    @property
    def backlogged(self) -> bool:
        """Whether so much of the journal waits that nothing more may be added to it."""
        return self._journal.backlog_bytes > self.backlog_bytes

    def require_room(self) -> None:
        """Raises ``RequestError`` OVERLOADED while nothing more may be added to the journal."""
        if self.backlogged:
            details = {"retryAfterMs": JOURNAL_RETRY_MS, "scope": "journal"}
            raise RequestError(Code.OVERLOADED, "the queue of the journal is full; try again later", details)

    def _overloaded(self, trigger: Trigger, scope: str, retry_after_ms: int) -> None:
        self._counters.overloaded += 1
        details = {"retryAfterMs": retry_after_ms, "scope": scope}
        message = f"the queue of the {scope} is full; try again later"
        self._answering.refuse(trigger, Refused(Code.OVERLOADED, message, details))

    # -- idempotency ---------------------------------------------------------------------------------

    def _known(self, trigger: Trigger, key: Key) -> bool:
        """Answers the trigger from what is known of its key, or has it wait; False when it is to be run."""
        resident = self._residents.of(trigger.panel)
        if resident is None:
            return False
        known = resident.answers.look(key, int(trigger.now_ms))
        if known is None:
            resident.answers.begin(key)
            return False
        if isinstance(known, Conflict):
            message = "this idempotency key was used for another tool or other arguments; use a new one"
            self._answering.turn_away(trigger, Refused(Code.CONFLICT, message))
        elif isinstance(known, Running):
            if len(known.followers) < MAX_FOLLOWERS:
                known.followers.append(trigger)
                _show_progress(trigger, known.key, resident)
            else:
                message = f"expected at most {MAX_FOLLOWERS} triggers that wait under one idempotency key"
                details = {"retryAfterMs": 100, "scope": "key"}
                self._answering.turn_away(trigger, Refused(Code.OVERLOADED, message, details))
        elif known.record is not None:
            self._answering.repeat(trigger, known.record)
        else:
            self._look_up(trigger, key, resident)
        return True

    def _look_up(self, trigger: Trigger, key: Key, resident: Resident) -> None:
        if len(self._lookups) >= MAX_LOOKUPS:
            details = {"retryAfterMs": 100, "scope": "journal"}
            message = "too many stored answers are being read; try again later"
            self._answering.turn_away(trigger, Refused(Code.OVERLOADED, message, details))
            return
        task = asyncio.create_task(self._answer_stored(trigger, key, resident))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _answer_stored(self, trigger: Trigger, key: Key, resident: Resident) -> None:
        record: Ran | None = None
        try:
            record = await self._journal.answer(resident.panel.number, key.subject, key.key)
        except JournalError as exc:
            _log.error("panel %r: a stored answer cannot be read: %s", resident.panel.id, exc)
        if record is not None:
            self._answering.repeat(trigger, record)
        else:
            # it was trimmed between the look and the read, or cannot be read: whether it ran is known, how it
            # ended is not
            message = "this idempotency key was answered before, and the answer is no longer kept"
            self._answering.turn_away(trigger, Refused(Code.CONFLICT, message))
        self._turn.request_seal()


def _show_progress(trigger: Trigger, key: Key, resident: Resident) -> None:
    """Tells a trigger that joins a handler which waits what that waits for."""
    for suspension in resident.waiting.values():
        if suspension.origin.key == key:
            steps = suspension.record.steps
            for call in suspension.still_open():
                progress = Progress(suspension.name, call.extension, call.method, steps)
                trigger.reply_to.progress(trigger, progress)


def make_key(subject: str, text: str, tool: str, args: bytes) -> Key:
    """The key that a client sent, with what it was sent for. Raises ``RequestError`` PARSE_ERROR."""
    if not 1 <= len(text) <= MAX_KEY_CHARS or not text.isprintable():
        raise RequestError(
            Code.PARSE_ERROR,
            f"idempotencyKey: expected 1 to {MAX_KEY_CHARS} printable characters, got {len(text)}",
        )
    digest = hashlib.sha256(tool.encode() + b"\0" + args).digest()
    return Key(subject, text, digest[:16])
