"""The client of one panel, without I/O: what happens and the time go in, instructions come out.

    phase       meaning                                         ends with
    TOKEN       the provider is asked for a token               token → CONNECTING, failed → WAITING
    CONNECTING  the upgrade is asked for                        opened → GREETING, refused → by verdict
    GREETING    CONNECTED has to come                           CONNECTED → LIVE
    LIVE        messages come, calls are sent                   lost, violated, silent → WAITING, by verdict
    WAITING     until the next attempt                          its time → TOKEN or CONNECTING
    CLOSED      for good

Every attempt has a *flow*, a number of its own. What is said of any other flow than the present one is
dropped, so that a late message of a dead connection changes nothing. State and position change within one
method, and all callbacks are instructions: they run afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, assert_never

from panels_client import endings
from panels_client.calls import Call, Calls, Pending, Result, failure
from panels_client.endings import Verdict
from panels_client.errors import CallError, CallTimeoutError, ClosedError, PanelsClientError
from panels_client.instructions import (
    Attended,
    Changed,
    Connect,
    Drop,
    FetchToken,
    Happened,
    Instruction,
    LogEntry,
    Moved,
    Noted,
    Notice,
    Noticed,
    Report,
    Send,
    Settle,
    Status,
)
from panels_client.messages import (
    Answered,
    Connected,
    ErrorMessage,
    EventMessage,
    Message,
    Patch,
    Pong,
    Presence,
    PresenceMessage,
    Progress,
    ProtocolViolation,
    Refreshed,
    ResultMessage,
    TokenExpiring,
    Unknown,
    decode,
)
from panels_client.options import Options
from panels_client.replica import Replica

PING: Final = '{"type":"PING"}'
#: The most that a server's advice may delay an attempt, in seconds.
MAX_ADVICE_S: Final = 60.0
#: The longest text of the log and of reasons that came from elsewhere.
MAX_TEXT: Final = 300


class Phase(Enum):
    """See the module's docstring."""

    TOKEN = "token"  # noqa: S105
    CONNECTING = "connecting"
    GREETING = "greeting"
    LIVE = "live"
    WAITING = "waiting"
    CLOSED = "closed"


#: A member of an enumeration takes longer to look up than all else that is asked for each message.
_GREETING: Final = Phase.GREETING
_LIVE: Final = Phase.LIVE


class Core:
    """One client. Each method that takes ``now`` returns what is to be done, in order.

    ``token`` is a token that never changes; ``renewable`` says that there is a provider instead. ``random``
    gives numbers from 0 to 1.
    """

    def __init__(
        self,
        options: Options,
        *,
        now: float,
        random: Callable[[], float],
        token: str | None = None,
        renewable: bool = False,
    ) -> None:
        self.options = options
        self.replica = Replica()
        self.calls = Calls(options)
        self.presence = Presence()
        self.phase = Phase.WAITING
        self.flow = 0
        self.closed: ClosedError | None = None
        self._random = random
        self._token = token
        self._renewable = renewable
        self._ever_live = False
        self._failures = 0
        self._refused_tokens = 0
        self._due: float | None = now
        self._live_since = 0.0
        self._pinged = False
        self._renewal: str | None = None
        self._renewed_at = now - 1.0
        self._renewing = False
        self._out: list[Instruction] = []

    # -- what one can look at --------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The application's word for the phase."""
        if self.phase is Phase.CLOSED:
            return "closed"
        if self.phase is Phase.LIVE:
            return "live"
        return "reconnecting" if self._ever_live else "connecting"

    def pending(self) -> tuple[Pending, ...]:
        """The calls that have no answer."""
        return self.calls.pending()

    def wakes_at(self) -> float | None:
        """When ``tick`` is to be called at the latest; None once the client has ended."""
        due, calls = self._due, self.calls.wakes_at()
        if due is None or calls is None:
            return calls if due is None else due
        return min(due, calls)

    # -- what the application does ---------------------------------------------------------------------

    def call(self, call: Call, now: float, *, expects: Mapping[str, Any] | None = None) -> list[Instruction]:
        """A call. Raises ``ClosedError``, ``TooManyError`` and ``ValueError``, and then nothing has
        happened.
        """
        if self.closed is not None:
            raise self.closed
        self.calls.add(call)
        if expects:
            self._changed(self.replica.view.expect(call.key, expects))
        self._send_calls(now)
        return self._drain()

    def forget(self, key: str, now: float) -> list[Instruction]:
        """Nobody waits for this call any longer. If it was sent, it may run all the same."""
        if self.calls.take(key) is not None:
            self._changed(self.replica.view.settle(key))
            self._send_calls(now)
        return self._drain()

    def close(self, now: float) -> list[Instruction]:
        """Ends the client. Idempotent."""
        self._stop("closed", "", now)
        return self._drain()

    # -- what happens ----------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Instruction]:
        """Time has passed."""
        self._watch_for_jump(now)
        if self._due is not None and self._due <= now:
            self._overdue(now)
        for call in self.calls.expired(now):
            why = "it was not answered within its timeout"
            self._settle(call, CallTimeoutError(call.key, why, sent=call.sends > 0))
        self._send_calls(now)
        return self._drain()

    def token(self, flow: int, text: str, now: float) -> list[Instruction]:
        """The provider's answer."""
        if flow == self.flow:
            if self.phase is Phase.TOKEN:
                self._token = text
                self._attempt(now)
            elif self.phase is Phase.LIVE and self._renewing:
                self._renewing, self._renewal = False, text
                self._send({"type": "REFRESH", "token": text, "requestId": f"refresh-{flow}"})
        return self._drain()

    def token_failed(self, flow: int, why: str, now: float) -> list[Instruction]:
        """The provider raised."""
        if flow == self.flow:
            self._note(now, "token provider failed", why)
            if self.phase is Phase.TOKEN:
                self._retry(now)
            self._renewing = False
        return self._drain()

    def opened(self, flow: int, now: float) -> list[Instruction]:
        """The upgrade was accepted."""
        if flow == self.flow and self.phase is Phase.CONNECTING:
            self._move(Phase.GREETING, now + self.options.connect_timeout_s)
        return self._drain()

    def refused(
        self, flow: int, status: int, why: str, now: float, *, retry_after_s: float = 0.0
    ) -> list[Instruction]:
        """The upgrade was answered with an HTTP status other than 101."""
        if flow == self.flow and self.phase is Phase.CONNECTING:
            self._note(now, "refused", f"{status} {why}")
            self._end(endings.of_refusal(status), f"{status} {why}", now, at_least_s=retry_after_s)
        return self._drain()

    def lost(self, flow: int, code: int | None, why: str, now: float) -> list[Instruction]:
        """The attempt failed, or the socket ended."""
        if flow == self.flow and self.phase in (Phase.CONNECTING, Phase.GREETING, Phase.LIVE):
            self._note(now, "connection lost", f"{code} {why}" if code is not None else why)
            if code == 1009:
                self._drop_largest(now)
            advice_s = endings.advice_s(code, why)
            if advice_s and self.phase is Phase.LIVE:
                self._failures = 0  # a restart that the gateway told of is none
            self._end(endings.of_close(code), why, now, at_least_s=advice_s)
        return self._drain()

    def heard(self, flow: int, frame: str | bytes, now: float) -> list[Instruction]:
        """A frame came."""
        phase = self.phase
        if flow != self.flow or (phase is not _LIVE and phase is not _GREETING):
            return self._drain()
        if phase is _LIVE:
            self._pinged, self._due = False, now + self.options.ping_after_s
            if self._failures:
                self._steady(now)
        try:
            self._hear(decode(frame), now)
        except ProtocolViolation as exc:
            self._violated(str(exc), now)
        return self._drain()

    def violated(self, flow: int, why: str, now: float) -> list[Instruction]:
        """What came cannot even be a frame of this protocol, because it is too large for instance."""
        if flow == self.flow and self.phase in (Phase.GREETING, Phase.LIVE):
            self._violated(why, now)
        return self._drain()

    def _violated(self, why: str, now: float) -> None:
        # nothing that came from there can be trusted to be whole: ask for all of it
        self._note(now, "protocol violated", why)
        self.replica.spoil()
        self._out.append(Drop(self.flow, 1002))
        self._retry(now)

    # -- messages --------------------------------------------------------------------------------------

    def _hear(self, message: Message, now: float) -> None:
        if self.phase is _GREETING:
            if not isinstance(message, Connected):
                raise ProtocolViolation(f"expected CONNECTED, got {type(message).__name__}")
            self._greeted(message, now)
            return
        match message:
            case Patch():
                self._changed(self.replica.patch(message))
            case EventMessage():
                if self.replica.event(message):
                    self._out.append(Happened(message.event))
            case ResultMessage():
                call = self._answered(message.request_id, "TRIGGER", now)
                if call is not None:
                    value = message.body.get("returnValue")
                    self._settle(call, Result(value, message.seq, call.key, message.body))
                    self._send_calls(now)
            case Answered():
                call = self._answered(message.request_id, "ANSWER", now)
                if call is not None:
                    self._settle(call, Result(None, self.replica.position, call.key, {}))
                    self._send_calls(now)
            case ErrorMessage():
                self._failed(message, now)
            case Progress():
                call = self.calls.get(message.request_id)
                if call is not None and call.flow == self.flow:
                    call.waits = True
                    self._out.append(Report(call.key, message))
                    self._send_calls(now)
            case PresenceMessage():
                known = {} if message.whole else self.presence.subjects
                here = {who: count for who, count in {**known, **message.subjects}.items() if count}
                self.presence = Presence(message.clients, MappingProxyType(here))
                self._out.append(Attended(self.presence))
            case TokenExpiring():
                self._renew(now)
            case Refreshed():
                if message.request_id == f"refresh-{self.flow}" and self._renewal is not None:
                    self._token, self._renewal = self._renewal, None
                    self._note(now, "token renewed", "")
            case Pong():
                return
            case Unknown():
                self._note(now, "unknown message", message.type)
            case Connected():
                raise ProtocolViolation("expected CONNECTED once, got it again")
            case _:
                assert_never(message)

    def _greeted(self, message: Connected, now: float) -> None:
        greeting, changed = self.replica.connected(message)
        self._refused_tokens, self._live_since, self._ever_live = 0, now, True
        self._pinged, self._renewing, self._renewal = False, False, None
        self._move(Phase.LIVE, now + self.options.ping_after_s)
        self._changed(changed)
        if greeting != "first":
            self._out.append(Noticed(Notice(greeting, message.seq)))
            self._note(now, greeting, f"at version {message.seq}")
        lost = greeting == "lost"
        for call, error in self.calls.unanswerable(message.epoch, lost=lost, now=now):
            self._settle(call, error)
        self._send_calls(now)

    def _answered(self, request_id: str, kind: str, now: float) -> Call | None:
        """The call that is answered; it is no longer one that waits."""
        call = self.calls.get(request_id)
        if call is None or call.kind != kind or call.flow != self.flow:
            self._note(now, "answer to no call", request_id)
            return None
        return self.calls.take(request_id)

    def _failed(self, message: ErrorMessage, now: float) -> None:
        if self._renewal is not None and message.request_id == f"refresh-{self.flow}":
            self._renewal = None
            self._note(now, "token not renewed", f"{message.code}: {message.message}")
            return
        call = self.calls.get(message.request_id)
        if call is None or call.flow != self.flow:
            self._note(now, "error", f"{message.code}: {message.message}")
        elif self.calls.may_wait(call, message):
            # an earlier copy may have run, and this refusal says nothing of it
            self.calls.hold(call, message, now)
        else:
            self.calls.take(call.key)
            self._settle(call, failure(call, message))
            self._send_calls(now)

    def _renew(self, now: float) -> None:
        if self._renewable and not self._renewing and self._renewal is None and now - self._renewed_at >= 1:
            self._renewing, self._renewed_at = True, now
            self._out.append(FetchToken(self.flow))

    # -- calls -----------------------------------------------------------------------------------------

    def _send_calls(self, now: float) -> None:
        if self.phase is Phase.LIVE:
            for call in self.calls.to_send(self.flow, self.replica.epoch, now):
                self._out.append(Send(self.flow, call.text))

    def _settle(self, call: Call, outcome: Result | PanelsClientError) -> None:
        """The overlay goes in the step in which the outcome is known."""
        self._changed(self.replica.view.settle(call.key))
        self._out.append(Settle(call.key, outcome))

    def _drop_largest(self, now: float) -> None:
        # a frame that is too large is too large each time: without this no other call would ever pass
        call = self.calls.largest_sent()
        if call is not None:
            self.calls.take(call.key)
            self._note(now, "too large", f"{len(call.text)} bytes for {call.what}")
            message = f"the server takes no frame of {len(call.text)} bytes"
            self._settle(call, CallError("TOO_LARGE", message))

    # -- attempts --------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """The next attempt, with a flow of its own."""
        self.flow += 1
        if self._token is None and self._renewable:
            self._move(Phase.TOKEN, now + self.options.token_timeout_s)
            self._out.append(FetchToken(self.flow))
        else:
            self._attempt(now)

    def _attempt(self, now: float) -> None:
        self._move(Phase.CONNECTING, now + self.options.connect_timeout_s)
        self._out.append(Connect(self.flow, self.replica.asks(), self._token))

    def _end(self, verdict: Verdict, why: str, now: float, *, at_least_s: float = 0.0) -> None:
        if verdict.what == "stop":
            self._stop(verdict.reason, why, now)
        elif verdict.what == "refresh":
            self._refused_tokens += 1
            if not self._renewable or self._refused_tokens >= self.options.max_refused_tokens:
                self._stop(verdict.reason, why, now)
            else:
                self._token = None
                self._retry(now)
        else:
            self._retry(now, at_least_s=at_least_s)

    def _retry(self, now: float, *, at_least_s: float = 0.0) -> None:
        if self.phase is Phase.LIVE:
            self._steady(now)
        options = self.options
        pause = min(options.backoff_max_s, options.backoff_initial_s * 2 ** min(self._failures, 30))
        pause *= 1 - options.backoff_jitter * self._random()
        self._failures += 1
        self._move(Phase.WAITING, now + max(pause, min(at_least_s, MAX_ADVICE_S)))

    def _steady(self, now: float) -> None:
        if self._failures and now - self._live_since >= self.options.stable_after_s:
            self._failures = 0

    def _stop(self, reason: str, detail: str, now: float) -> None:
        if self.phase is Phase.CLOSED:
            return
        self.closed = ClosedError(reason, detail[:MAX_TEXT])
        self._note(now, "closed", f"{reason} {detail}".rstrip())
        self._out.append(Drop(self.flow))
        self._move(Phase.CLOSED, None)
        for call in self.calls:
            self.calls.take(call.key)
            self._settle(call, ClosedError(reason, detail[:MAX_TEXT]))

    def _overdue(self, now: float) -> None:
        match self.phase:
            case Phase.WAITING:
                self._begin(now)
            case Phase.TOKEN:
                self._note(now, "token provider failed", "it took too long")
                self._give_up(now)
            case Phase.CONNECTING | Phase.GREETING:
                self._note(now, "connection lost", f"{self.phase.value} took too long")
                self._give_up(now)
            case Phase.LIVE if self._pinged:
                self._note(now, "connection lost", "no answer to PING")
                self._give_up(now)
            case Phase.LIVE:
                self._probe(now, self.options.pong_timeout_s)
            case _:
                self._due = None

    def _probe(self, now: float, timeout_s: float) -> None:
        self._pinged, self._due = True, now + timeout_s
        self._out.append(Send(self.flow, PING))

    def _give_up(self, now: float) -> None:
        self._out.append(Drop(self.flow, 1001))
        self._retry(now)

    def _watch_for_jump(self, now: float) -> None:
        """After a pause of the whole process, silence proves nothing: the connection is asked first."""
        if self.phase is Phase.LIVE and self._due is not None and now - self._due > self.options.jump_s:
            self._note(now, "clock jumped", f"by {now - self._due:.0f} s")
            self._probe(now, self.options.probe_timeout_s)

    # -- instructions ----------------------------------------------------------------------------------

    def _move(self, phase: Phase, due: float | None) -> None:
        before = self.status
        self.phase, self._due = phase, due
        if self.status != before:
            self._out.append(Moved(self.status))

    def _send(self, body: Mapping[str, Any]) -> None:
        self._out.append(Send(self.flow, json.dumps(body)))

    def _changed(self, keys: frozenset[str]) -> None:
        if keys:
            self._out.append(Changed(keys))

    def _note(self, now: float, what: str, detail: str) -> None:
        self._out.append(Noted(LogEntry(now, what, detail[:MAX_TEXT])))

    def _drain(self) -> list[Instruction]:
        out, self._out = self._out, []
        return out
