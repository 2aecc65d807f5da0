"""The calls that have no answer yet, in the order in which they were made. Pure.

A call keeps the text in which it was sent: the same key has to come with the same bytes.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from panels_client.errors import CallError, OutcomeUnknownError, TooManyError
from panels_client.messages import ErrorMessage
from panels_client.options import Options

#: Refusals after which the same call may come again: nothing ran on account of the message that was refused.
TRANSIENT: Final = frozenset({"OVERLOADED", "RATE_LIMITED", "QUOTA_EXCEEDED", "CIRCUIT_OPEN", "UNAVAILABLE"})
#: How long a refused copy of a call waits at least, and at most, in seconds.
HOLD_S: Final = 0.1
MAX_HOLD_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a call. ``value`` is what the handler returned, ``seq`` the panel's version by then."""

    value: Any
    seq: int
    key: str
    #: The ExecutionResult, as docs/protocol.md describes it.
    body: Mapping[str, Any] = field(repr=False)


@dataclass(slots=True, eq=False)
class Call:
    """One call. ``flow`` is the connection on which it was last sent, 0 before that."""

    key: str
    kind: Literal["TRIGGER", "ANSWER"]
    what: str
    text: str = field(repr=False)
    deadline: float | None
    sends: int = 0
    flow: int = 0
    epoch: str | None = None
    first_sent_at: float = 0.0
    #: Its handler is suspended: it does not count against the window.
    waits: bool = False
    refusals: int = 0
    #: A refused copy is sent again then.
    held_until: float | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A call without an answer, as the application sees it."""

    key: str
    what: str
    sends: int
    waits: bool


def trigger(
    key: str,
    tool: str,
    args: Any,
    *,
    options: Options,
    deadline: float | None,
    expected_seq: int | None = None,
) -> Call:
    """A TRIGGER. Raises ``ValueError`` or ``TypeError`` for what JSON cannot hold and what is too large."""
    body: dict[str, Any] = {"type": "TRIGGER", "tool": tool, "requestId": key, "idempotencyKey": key}
    if args is not None:
        body["args"] = args
    if expected_seq is not None:
        body["expectedSeq"] = expected_seq
    if not 0 < len(key) <= 128 or not key.isprintable():
        raise ValueError(f"expected a key of 1 to 128 printable characters, got {key!r}")
    return Call(key, "TRIGGER", tool, _encode(body, options), deadline)


def answer(
    key: str,
    suspension: str,
    value: Any,
    *,
    call: int | None = None,
    options: Options,
    deadline: float | None,
) -> Call:
    """An ANSWER. Raises as ``trigger`` does."""
    body: dict[str, Any] = {"type": "ANSWER", "suspensionId": suspension, "value": value, "requestId": key}
    if call is not None:
        body["call"] = call
    return Call(key, "ANSWER", suspension, _encode(body, options), deadline)


def _encode(body: object, options: Options) -> str:
    # ASCII, so that a lone surrogate is refused by the gateway and not by the socket
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    if len(text) > options.max_sent_bytes:
        raise ValueError(f"expected at most {options.max_sent_bytes} bytes of JSON, got {len(text)}")
    return text


class Calls:
    """The calls without an answer, at most ``options.max_calls``; one more raises ``TooManyError``."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._calls: dict[str, Call] = {}
        self._timers: list[tuple[float, str]] = []

    def __iter__(self) -> Iterator[Call]:
        return iter(list(self._calls.values()))

    def __len__(self) -> int:
        return len(self._calls)

    def pending(self) -> tuple[Pending, ...]:
        """What the application sees of them."""
        return tuple(Pending(call.key, call.what, call.sends, call.waits) for call in self._calls.values())

    def get(self, key: str) -> Call | None:
        """The call of this key."""
        return self._calls.get(key)

    def add(self, call: Call) -> None:
        """Takes a call. Raises ``TooManyError``, and ``ValueError`` if its key waits already."""
        if call.key in self._calls:
            raise ValueError(f"expected a key that no call waits under, got {call.key!r}")
        if len(self._calls) >= self._options.max_calls:
            raise TooManyError(f"expected at most {self._options.max_calls} unanswered calls")
        self._calls[call.key] = call
        if call.deadline is not None:
            heapq.heappush(self._timers, (call.deadline, call.key))
        if len(self._timers) > 4 * len(self._calls) + 64:
            # those of calls that were answered long before their deadline
            self._timers = [timer for timer in self._timers if timer[1] in self._calls]
            heapq.heapify(self._timers)

    def take(self, key: str) -> Call | None:
        """Removes a call."""
        return self._calls.pop(key, None)

    def to_send(self, flow: int, epoch: str | None, now: float) -> Iterator[Call]:
        """The calls that are to be sent on ``flow`` now, marked as sent. The window bounds how many."""
        room = self._options.window - sum(
            call.flow == flow and not call.waits and call.held_until is None for call in self._calls.values()
        )
        for call in self._calls.values():
            if room <= 0:
                return
            if call.flow == flow or (call.held_until is not None and call.held_until > now):
                continue
            if not call.sends:
                call.epoch, call.first_sent_at = epoch, now
            call.flow, call.sends, call.waits, call.held_until = flow, call.sends + 1, False, None
            room -= 1
            yield call

    def hold(self, call: Call, error: ErrorMessage, now: float) -> None:
        """Keeps a refused copy until it may be sent again."""
        advice = (error.retry_after_ms or 0) / 1_000
        call.refusals += 1
        pause = min(MAX_HOLD_S, max(advice, HOLD_S * 2 ** min(call.refusals, 8)))
        call.held_until, call.flow = now + pause, 0
        heapq.heappush(self._timers, (call.held_until, call.key))

    def may_wait(self, call: Call, error: ErrorMessage) -> bool:
        """Whether a refusal says nothing about an earlier copy, so that the call has to come again."""
        return call.kind == "TRIGGER" and call.sends > 1 and error.code in TRANSIENT

    def expired(self, now: float) -> list[Call]:
        """Removes the calls whose time is over."""
        found: list[Call] = []
        while self._timers and self._timers[0][0] <= now:
            _, key = heapq.heappop(self._timers)
            call = self._calls.get(key)
            if call is not None and call.deadline is not None and call.deadline <= now:
                found.append(self._calls.pop(key))
        return found

    def wakes_at(self) -> float | None:
        """When ``expired`` or ``to_send`` has something new to say."""
        while self._timers and self._timers[0][1] not in self._calls:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def unanswerable(self, epoch: str, *, lost: bool, now: float) -> list[tuple[Call, OutcomeUnknownError]]:
        """Removes the calls that must not be sent again: keys end with their panel, and with their age."""
        found: list[tuple[Call, OutcomeUnknownError]] = []
        for call in list(self._calls.values()):
            if not call.sends:
                continue
            if lost or call.epoch != epoch:
                why = "the panel is another one now, or its history was lost"
            elif now - call.first_sent_at > self._options.key_lifetime_s:
                why = "the gateway may have forgotten the key"
            else:
                continue
            del self._calls[call.key]
            found.append((call, OutcomeUnknownError(call.key, why)))
        return found

    def largest_sent(self) -> Call | None:
        """The largest call that was sent: the one to blame for a frame that was too large."""
        return max((call for call in self._calls.values() if call.sends), key=_size, default=None)


def _size(call: Call) -> int:
    return len(call.text)


def failure(call: Call, error: ErrorMessage) -> CallError:
    """What the application is told of an ERROR."""
    ran: bool | None = False
    if error.code == "EXECUTION_ERROR":
        ran = True
    elif call.sends > 1 or error.code in ("INTERNAL", "CONFLICT"):
        ran = None
    return CallError(error.code, error.message, error.details, ran=ran, retry_after_ms=error.retry_after_ms)
