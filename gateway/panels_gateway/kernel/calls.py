"""Who makes the calls of handlers that wait: this process for time, panels and people, the extension process
for all else.

    time.sleep(ms)              a timer; after a restart it rings when it would have rung
    panels.trigger(id, tool, a) another panel's tool, as this panel, within a depth; under a key of its own,
    so once
    human.approve / human.ask   waits until somebody answers (``answer``)
    anything else               ``ExtensionClient``

An answer is given to ``Suspensions.answered`` once. What is wrong with a call is an answer too: the handler's
``await`` throws an Error with the code and the message.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from panels_gateway.access.tokens import Principal, principal_of
from panels_gateway.extensions.client import ExtensionClient
from panels_gateway.extensions.messages import Call, CallId, LedgerEntry
from panels_gateway.extensions.messages import Returned as ExtensionReturned
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.records import Exchange
from panels_gateway.kernel.counters import EXTENSION_CALLS, Counters
from panels_gateway.kernel.intake import Intake
from panels_gateway.kernel.questions import HUMAN, METHODS
from panels_gateway.kernel.residents import Resident, Residents
from panels_gateway.kernel.suspension import Suspension
from panels_gateway.observe.tracing import Tracing, traceparent
from panels_gateway.panels.trigger import Answer, Failure, Progress, Succeeded, Trigger
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import ExtensionCall

_log = logging.getLogger("panels.gateway.calls")
#: One line for each exchange of a handler with another host.
_egress_log = logging.getLogger("panels.gateway.egress")

#: How deep panels may trigger one another.
MAX_DEPTH: Final = 8
#: How often a call that may be repeated may be lost with the extension process: it may be what ends it.
MAX_LOSSES: Final = 3
MAX_SLEEP_MS: Final = 7 * 24 * 3_600 * 1_000

_NAME_PATTERN: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)
_args_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class Answers(Protocol):
    """Who takes the answers."""

    def answered(
        self,
        suspension: Suspension,
        call: int,
        *,
        ok: bool,
        value: bytes,
        exchanges: tuple[Exchange, ...] = (),
    ) -> bool:
        """A call was answered; False when nobody waits for it any more."""
        ...


def failure(code: str, message: str) -> bytes:
    """What a handler is told of a call that did not go well."""
    return msgspec.json.encode({"code": code, "message": message})


def find(resident: Resident, name: str) -> Suspension:
    """The suspension that clients call ``name``. Raises ``RequestError``: NOT_FOUND."""
    suspension = resident.waiting.get(int(name, 16)) if _NAME_PATTERN.fullmatch(name) else None
    if suspension is None:
        raise RequestError(
            Code.NOT_FOUND, "there is no such suspension; it may have been answered, cancelled, or ended"
        )
    return suspension


class CallMaker:
    """See the module's docstring. ``client`` None: no extension is configured."""

    def __init__(
        self,
        answers: Answers,
        residents: Residents,
        intake: Intake,
        counters: Counters,
        wall_clock: Callable[[], float],
    ) -> None:
        self.client: ExtensionClient | None = None
        self._answers = answers
        self._residents = residents
        self._intake = intake
        self._counters = counters
        self._wall_clock = wall_clock
        self._timers: dict[tuple[Suspension, int], asyncio.TimerHandle] = {}
        self._open: dict[CallId, tuple[Suspension, ExtensionCall, Call]] = {}
        #: who takes the spans of calls; None while nothing is traced
        self.tracing: Tracing | None = None
        #: the span of each traced call, and when it was made, by the monotonic clock
        self._spans: dict[CallId, tuple[int, float]] = {}
        #: how often each of these was lost with the extension process
        self._losses: dict[CallId, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, suspension: Suspension, call: ExtensionCall, *, again: bool) -> None:
        """Makes a call. ``again``: it may have been made before, by a gateway that ended."""
        kind = call.extension if call.extension in EXTENSION_CALLS else "extension"
        self._counters.extension_calls[kind] += 1
        if call.extension == "time":
            self._sleep(suspension, call)
        elif call.extension == "panels":
            self._start(self._trigger(suspension, call))
        elif call.extension == HUMAN:
            if call.method not in METHODS:
                self._fail(
                    suspension,
                    call,
                    "extension_unknown",
                    f"expected human.approve or human.ask, got human.{call.method}",
                )
        else:
            self._extension(suspension, call, again=again)

    def cancel(self, suspension: Suspension, call: ExtensionCall) -> None:
        """Nobody wants the answer any more."""
        timer = self._timers.pop((suspension, call.call), None)
        if timer is not None:
            timer.cancel()
        name = _name(suspension, call)
        self._losses.pop(name, None)
        if name in self._spans:
            self._traced(name, suspension, call, "cancelled")
        if self._open.pop(name, None) is not None and self.client is not None:
            self.client.cancel(name)

    def asked(self, resident: Resident, name: str, principal: Principal) -> Suspension:
        """The suspension of that name, whose questions ``principal`` may answer.

        Raises ``RequestError``: NOT_FOUND, FORBIDDEN.
        """
        suspension = find(resident, name)
        panel_id, tool = resident.panel.id, suspension.record.tool
        if not principal.may_answer(panel_id, tool):
            raise RequestError(
                Code.FORBIDDEN, f"the token does not allow answer:{tool} on panel {panel_id!r}"
            )
        return suspension

    def answer(self, suspension: Suspension, call: int | None, value: bytes) -> None:
        """Somebody answers a question. ``call`` None: the only one that is open.

        Raises ``RequestError``: CONFLICT (answered before, or several are open), INVALID_REQUEST.
        """
        asked = [
            number
            for number, found in suspension.calls.items()
            if found.extension == HUMAN and suspension.is_open(number)
        ]
        if call is None and len(asked) == 1:
            call = asked[0]
        if call is None:
            raise RequestError(
                Code.CONFLICT,
                f"expected the number of one of the open questions {asked}, got none",
                {"open": asked},
            )
        if call not in asked:
            raise RequestError(
                Code.CONFLICT, f"question {call} is not open; it may have been answered", {"open": asked}
            )
        if suspension.calls[call].method == "approve" and value not in (b"true", b"false"):
            raise RequestError(Code.INVALID_REQUEST, "value: expected true or false", {"path": "value"})
        self._answers.answered(suspension, call, ok=True, value=value)

    # -- kinds of calls ------------------------------------------------------------------------------

    def _fail(self, suspension: Suspension, call: ExtensionCall, code: str, message: str) -> None:
        self._answers.answered(suspension, call.call, ok=False, value=failure(code, message))

    def _sleep(self, suspension: Suspension, call: ExtensionCall) -> None:
        ms = _number(call.args)
        if call.method != "sleep" or ms is None or not 0 <= ms <= MAX_SLEEP_MS:
            self._fail(
                suspension,
                call,
                "extension_arguments",
                f"expected time.sleep(ms) with ms from 0 to {MAX_SLEEP_MS}",
            )
            return
        due_ms = suspension.made_ms[call.call] + ms
        seconds = min(ms, max(0.0, due_ms - self._wall_clock() * 1000)) / 1000
        loop = asyncio.get_running_loop()
        self._timers[suspension, call.call] = loop.call_later(seconds, self._rang, suspension, call)

    def _rang(self, suspension: Suspension, call: ExtensionCall) -> None:
        self._timers.pop((suspension, call.call), None)
        self._answers.answered(suspension, call.call, ok=True, value=b"null")

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _trigger(self, suspension: Suspension, call: ExtensionCall) -> None:
        origin = suspension.origin
        try:
            panel_id, tool, args = _trigger_args(call)
            if origin.depth + 1 >= MAX_DEPTH:
                raise RequestError(
                    Code.OVERLOADED, f"expected panels that trigger one another at most {MAX_DEPTH} deep"
                )
            resident = await self._residents.open(panel_id)
            if not suspension.is_open(call.call):
                return
            if resident is None:
                raise RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {panel_id!r}")
            caller = principal_of(f"panel:{origin.panel.id}", expires_at=None, grants=None)
            trigger = self._intake.accept(
                _Reply(self._answers, suspension, call.call),
                resident.panel,
                tool,
                args,
                caller,
                None,
                f"{origin.panel.number}.{_name(suspension, call)}",
                depth=origin.depth + 1,
                traceparent=_parent(origin),
            )
        except RequestError as exc:
            self._fail(suspension, call, exc.code.value, exc.message)
            return
        except JournalError as exc:
            _log.error("a panel that %s triggers cannot be loaded: %s", suspension.name, exc)
            self._fail(suspension, call, Code.INTERNAL.value, "the panel is stored but cannot be read")
            return
        self._intake.submit(trigger)

    def _extension(self, suspension: Suspension, call: ExtensionCall, *, again: bool) -> None:
        client = self.client
        if client is None:
            self._fail(
                suspension, call, "extension_unknown",
                f"no extension {call.extension!r} is registered; the operator names extensions with "
                "--extensions FILE",
            )  # fmt: skip
            return
        if again and client.repeatable(call.extension, call.method) is False:
            self._fail(
                suspension, call, "extension_lost",
                "the gateway ended during the call, and whether it was made is not known",
            )  # fmt: skip
            return
        origin = suspension.origin
        name = _name(suspension, call)
        parent = ""
        if origin.trace is not None and self.tracing is not None:
            span_id = self.tracing.new_id()
            self._spans[name] = span_id, self._intake.clock()
            parent = traceparent(origin.trace.trace_id, span_id)
        made = Call(
            name,
            call.extension,
            call.method,
            call.args,
            origin.panel.id,
            suspension.record.tool,
            origin.subject,
            suspension.name,
            f"{origin.panel.number}.{name}",
            parent,
        )
        self._open[name] = suspension, call, made
        client.call(made)

    def extension_returned(self, returned: ExtensionReturned) -> None:
        """From the client: a call was answered, or lost."""
        found = self._open.get(returned.id)
        if found is None:
            return
        suspension, call, made = found
        error = returned.error
        if (
            error is not None
            and error.code == "extension_lost"
            and error.repeatable
            and self.client is not None
        ):
            losses = self._losses[returned.id] = self._losses.get(returned.id, 0) + 1
            if losses < MAX_LOSSES:
                self.client.call(made)
                return
        del self._open[returned.id]
        self._losses.pop(returned.id, None)
        if returned.id in self._spans:
            self._traced(returned.id, suspension, call, "" if error is None else error.code.value)
        exchanges = tuple(_exchange(call.call, entry) for entry in returned.ledger)
        for exchange in exchanges:
            _egress_log.info(
                "%s: %s.%s of tool %s of panel %s: %s (%s), %d bytes sent, %d received, %d ms, secrets %s",
                exchange.verdict, made.extension, made.method, made.tool, made.panel,
                exchange.host, exchange.address or "not connected", exchange.bytes_sent,
                exchange.bytes_received, exchange.ms,
                ", ".join(exchange.secrets) or "none",
            )  # fmt: skip
        lost = error is not None and error.code == "extension_lost"
        self._counters.extension_answers["lost" if lost else "ok" if error is None else "failed"] += 1
        if error is not None:
            ok, value = False, failure(error.code, error.message)
        else:
            assert returned.result is not None
            ok, value = True, returned.result
        self._answers.answered(suspension, call.call, ok=ok, value=value, exchanges=exchanges)

    def _traced(self, name: CallId, suspension: Suspension, call: ExtensionCall, error: str) -> None:
        span_id, made_s = self._spans.pop(name)
        context = suspension.origin.trace
        if context is None or self.tracing is None:
            return
        self.tracing.called(
            context,
            span_id,
            f"{call.extension}.{call.method}",
            made_s=made_s,
            now_s=self._intake.clock(),
            attributes={"panels.panel": suspension.origin.panel.id, "panels.suspension": suspension.name},
            error=error,
        )


class _Reply:
    """Takes the answer of another panel's tool back to the handler that triggered it."""

    __slots__ = ("_answers", "_call", "_suspension")

    def __init__(self, answers: Answers, suspension: Suspension, call: int) -> None:
        self._answers = answers
        self._suspension = suspension
        self._call = call

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        if isinstance(answer, Succeeded):
            ok, value = True, answer.outcome.return_value
        elif isinstance(answer, Failure):
            ok, value = False, failure(answer.outcome.reason.value, answer.outcome.message)
        else:
            ok, value = False, failure(answer.code.value, answer.message)
        self._answers.answered(self._suspension, self._call, ok=ok, value=value)

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        return


def _parent(origin: Trigger) -> str | None:
    """What a panel that is triggered by another one's handler is told of the trace."""
    context = origin.trace
    return traceparent(context.trace_id, context.span_id) if context is not None else None


def _name(suspension: Suspension, call: ExtensionCall) -> CallId:
    return CallId(f"{suspension.name}.{call.call}")


def _exchange(call: int, entry: LedgerEntry) -> Exchange:
    return Exchange(
        call,
        entry.host,
        entry.address,
        entry.bytes_sent,
        entry.bytes_received,
        entry.ms,
        tuple(entry.secrets),
        entry.verdict.value,
    )


def _number(args: bytes) -> float | None:
    try:
        found = msgspec.json.decode(args, type=list[float])
    except msgspec.DecodeError:
        return None
    return found[0] if len(found) == 1 else None


def _trigger_args(call: ExtensionCall) -> tuple[str, str, bytes]:
    problem = RequestError(Code.INVALID_REQUEST, "expected panels.trigger(panelId, tool, args?)")
    try:
        parts = _args_decoder.decode(call.args)
        if call.method != "trigger" or len(parts) not in (2, 3):
            raise problem
        panel_id, tool = (msgspec.json.decode(part, type=str) for part in parts[:2])
    except msgspec.DecodeError:
        raise problem from None
    return panel_id, tool, bytes(parts[2]) if len(parts) == 3 else b"null"
