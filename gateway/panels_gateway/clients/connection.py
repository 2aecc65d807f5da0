"""One client of one panel, without I/O: what it may do, what it hears, and what it waits for.

The shell (``websocket``) feeds it text frames and offers a ``Transport``; the intake has its
triggers run, and answers them.

    state        receive(TRIGGER)         answer            receive(SUBSCRIBE)     lost()
    open         intake.submit            RESULT or ERROR   topics change          closed
    closed       nothing                  dropped           nothing                closed

``session`` says who the client is, which may change: ``principal`` is whoever it is now.

A client's triggers run in the order it sent them. At most ``ClientLimits.admitted`` of them stand in
the panel's queue at a time and the rest wait here, so that one client's burst delays another's trigger
by a bounded number of jobs; at most ``ClientLimits.in_flight`` in all are unanswered, and one more is
answered OVERLOADED at once. Messages other than triggers, and what is no message, have a rate of their own; a
client that exceeds it is closed with 1008.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import msgspec

from panels_gateway.access.tokens import NOBODY
from panels_gateway.broadcast import messages
from panels_gateway.broadcast.frames import text_frame
from panels_gateway.broadcast.messages import MessageError, Ping, Trigger
from panels_gateway.broadcast.outbox import Commit, OutboxLimits
from panels_gateway.broadcast.topics import MAX_TOPICS, Topics
from panels_gateway.kernel.images import LARGE_BYTES
from panels_gateway.panels import trigger as request
from panels_gateway.panels.trigger import Answer, Progress
from panels_shared.errors import CloseCode, Code, RequestError
from panels_shared.rate import RateLimit, TokenBucket

if TYPE_CHECKING:
    from panels_gateway.access.tokens import Principal
    from panels_gateway.broadcast.hub import Room
    from panels_gateway.clients.recovery import Recovery
    from panels_gateway.kernel.images import Image
    from panels_gateway.kernel.kernel import Kernel
    from panels_gateway.panels.panel import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Bounds of one client; see the module's docstring."""

    in_flight: int = 256
    admitted: int = 64
    rate: RateLimit = field(default_factory=RateLimit)
    messages: RateLimit = field(default_factory=lambda: RateLimit(per_s=1_000.0, burst=2_000))
    outbox: OutboxLimits = field(default_factory=OutboxLimits)


class Transport(Protocol):
    """The way to one client's socket."""

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        """Writes whole WebSocket frames.

        ``items`` is the same in parts, to be kept while the client does not read.
        """

    def close(self, code: CloseCode, reason: str) -> None:
        """Starts the closing handshake."""

    def begin(self, head: bytes, image: Image, tail: bytes) -> None:
        """Sends the first message, of ``head``, the image's parts and ``tail``, as the client takes it and
        before anything that is delivered after. Lets the image go when that is done, or the client is gone.
        """


class Renewal(Protocol):
    """What renews a client's token."""

    def refresh(self, message: messages.Refresh) -> None:
        """Takes a REFRESH and answers it."""


class Connection:
    """See the module's docstring. Made once the upgrade is accepted; ``open`` sends CONNECTED."""

    __slots__ = (
        "_admitting",
        "_bucket",
        "_flooded",
        "_kernel",
        "_limits",
        "_messages",
        "_opening",
        "_stages",
        "_traceparent",
        "_transport",
        "admitted",
        "backlog",
        "client_id",
        "closed",
        "in_flight",
        "panel",
        "position",
        "principal",
        "private",
        "room",
        "session",
        "suspended",
        "topics",
    )

    def __init__(
        self,
        kernel: Kernel,
        panel: Panel,
        principal: Principal,
        transport: Transport,
        *,
        client_id: str,
        limits: ClientLimits,
        topics: Topics | None = None,
        traceparent: str | None = None,
    ) -> None:
        self._kernel = kernel
        self._traceparent = traceparent
        self._limits = limits
        self._transport = transport
        self._bucket = TokenBucket(limits.rate, kernel.clock()) if limits.rate.per_s else None
        self._messages: TokenBucket | None = None
        self._flooded = False
        self._stages = kernel.stages
        self.panel = panel
        self.principal = principal
        self.client_id = client_id
        self.topics = topics if topics is not None else Topics()
        self.private: list[tuple[int, bytes]] = []
        self.position = 0
        self.room: Room = kernel.room(panel)
        self.in_flight = 0
        self.admitted = 0
        self._admitting = False
        self._opening: tuple[bytes, Image, bytes] | None = None
        self.suspended: set[request.Trigger] = set()
        self.backlog: deque[request.Trigger] = deque()
        self.closed = False
        self.session: Renewal | None = None

    @property
    def subject(self) -> str | None:
        """Whose events it hears that are for one subject only."""
        return self.principal.subject

    def open(self, recovery: Recovery | None = None) -> bool:
        """Joins the panel's room and sends CONNECTED.

        CONNECTED carries the current state or, if ``recovery`` can be completed, is followed by
        everything that the client missed. False, and nothing is done, where the state is wanted and is large:
        see ``open_large``.
        """
        panel = self.panel
        recovered = None if recovery is None else recovery.complete(panel, self.topics, self.subject)
        if recovered is None and panel.state_bytes > LARGE_BYTES:
            return False
        self._join()
        self._count(recovery, recovered)
        state = panel.state_json() if recovered is None else None
        self.send(
            messages.connected(
                panel.id,
                state,
                panel.seq,
                self.client_id,
                epoch=panel.epoch,
                recovered=None if recovery is None else recovered is not None,
            )
        )
        for frame in recovered or ():
            self.room.send(self, frame)
        self._tell_presence()
        return True

    def open_large(self, image: Image, since: Recovery, *, resumes: bool) -> bool:
        """The same for a client that gets the whole state and a state that is large: CONNECTED carries
        ``image``, which the caller holds, and what was committed ``since`` follows. False, and nothing is
        done, where that cannot be made out any more.
        """
        panel = self.panel
        missed = since.complete(panel, self.topics, self.subject)
        if missed is None:
            return False
        self._join()
        if resumes:
            self._kernel.counters.resynced += 1
        self.position = since.position
        head, tail = messages.connected_around(
            panel.id, image.seq, self.client_id, epoch=panel.epoch, recovered=False if resumes else None
        )
        self._opening = (head, image, tail)
        # what is sent first leaves with the turn, like everything: ``deliver`` puts CONNECTED before it
        self.room.send(self, b"")
        for frame in missed:
            self.room.send(self, frame)
        self._tell_presence()
        self._kernel.turn.request_seal()
        return True

    def _tell_presence(self) -> None:
        resident = self._kernel.residents.of(self.panel)
        if resident is not None:
            self._kernel.presences.tell(self, resident)

    def _join(self) -> None:
        self.room.join(self)
        self._kernel.connection_opened(self)

    def _count(self, recovery: Recovery | None, recovered: list[bytes] | None) -> None:
        if recovery is None:
            return
        if recovered is None:
            self._kernel.counters.resynced += 1
        else:
            self._kernel.counters.recovered += 1
            self.position = recovery.position

    # -- from the client -----------------------------------------------------------------------------

    def receive_text(self, text: bytes | str) -> None:
        """Takes one text message. Never raises for what a client sends."""
        stages = self._stages
        stages.decodes -= 1
        began_s = perf_counter() if stages.decodes <= 0 else 0.0
        try:
            message = messages.decode(text)
        except MessageError as exc:
            if not self._floods():
                self.send(messages.error(exc.code, exc.message, exc.request_id))
            return
        if began_s:
            stages.decoded(began_s)
        if type(message) is Trigger:
            self._trigger(message)
        elif self._floods():
            return
        elif type(message) is Ping:
            self.send(messages.PONG)
        elif isinstance(message, messages.Subscribe):
            if self.topics.add(message.topics):
                self._topics_changed(message.requestId)
            else:
                text = f"expected at most {MAX_TOPICS} topics, got more"
                self.send(messages.error(Code.PARSE_ERROR, text, _given(message.requestId)))
        elif isinstance(message, messages.Unsubscribe):
            self.topics.remove(message.topics)
            self._topics_changed(message.requestId)
        elif isinstance(message, messages.AnswerQuestion):
            self._answer_question(message)
        elif isinstance(message, messages.Refresh) and self.session is not None:
            self.session.refresh(message)

    def _floods(self) -> bool:
        """Whether the client sends too much other than triggers; it is closed for that."""
        if self._flooded:
            return True
        limit = self._limits.messages
        if not limit.per_s:
            return False
        now_s = self._kernel.clock()
        if self._messages is None:
            self._messages = TokenBucket(limit, now_s)
        if self._messages.take(now_s):
            self._flooded = True
            reason = f"expected at most {limit.per_s:g} messages a second"
            self.close(CloseCode.POLICY_VIOLATION, reason)
        return self._flooded

    def _topics_changed(self, request_id: str | msgspec.UnsetType) -> None:
        listened = self in self.room.listening
        self.room.join(self)
        if request_id is not msgspec.UNSET:
            self.position = self.panel.seq  # SUBSCRIBED moves the client there too
            self.send(messages.subscribed(request_id, sorted(self.topics.names), self.panel.seq))
        if not listened:
            self._tell_presence()

    def receive_binary(self) -> None:
        """Closes with 1003: the protocol has no binary messages."""
        self.close(CloseCode.UNSUPPORTED_DATA, "expected text frames")

    def _trigger(self, message: Trigger) -> None:
        request_id = _given(message.requestId)
        if self.in_flight >= self._limits.in_flight:
            text = f"expected at most {self._limits.in_flight} unanswered triggers; wait for answers"
            details: dict[str, object] = {"retryAfterMs": 100, "scope": "client"}
            self.send(messages.error(Code.OVERLOADED, text, request_id, details))
            return
        if self._bucket is not None and self._is_too_fast(self._bucket, request_id):
            return
        intake = self._kernel.intake
        try:
            trigger = intake.accept(
                self,
                self.panel,
                message.tool,
                bytes(message.args),
                self.principal,
                request_id,
                _given(message.idempotencyKey),
                client_id=self.client_id,
                expected_seq=message.expectedSeq,
                traceparent=self._traceparent
                if message.traceparent is msgspec.UNSET
                else message.traceparent,
            )
        except RequestError as exc:
            # with a key the client sends it again once it is back from 1012, which comes soon; an answer
            # would end a call that nothing stands against
            if not (intake.closing and exc.code is Code.UNAVAILABLE and _given(message.idempotencyKey)):
                self.send(messages.error(exc.code, exc.message, request_id, exc.details))
            return
        self.in_flight += 1
        if self.admitted < self._limits.admitted and not self.backlog:
            self.admitted += 1
            intake.submit(trigger)
        else:
            self.backlog.append(trigger)

    def _is_too_fast(self, bucket: TokenBucket, request_id: str | None) -> bool:
        wait_s = bucket.take(self._kernel.intake.clock())
        if wait_s:
            text = f"expected at most {self._limits.rate.per_s:g} triggers and answers a second"
            details = {"retryAfterMs": max(1, round(wait_s * 1000))}
            self.send(messages.error(Code.RATE_LIMITED, text, request_id, details))
        return bool(wait_s)

    def _answer_question(self, message: messages.AnswerQuestion) -> None:
        request_id = _given(message.requestId)
        if self._bucket is not None and self._is_too_fast(self._bucket, request_id):
            return
        kernel = self._kernel
        try:
            resident = kernel.residents.of(self.panel)
            if resident is None:
                raise RequestError(Code.PANEL_NOT_FOUND, f"there is no panel {self.panel.id!r} any more")
            suspension = kernel.calls.asked(resident, message.suspensionId, self.principal)
            value = bytes(message.value)
            if len(value) > messages.MAX_ANSWER_BYTES:
                text = f"value: expected at most {messages.MAX_ANSWER_BYTES} bytes, got more"
                raise RequestError(Code.TOO_LARGE, text)
            kernel.calls.answer(suspension, message.call, value)
        except RequestError as exc:
            self.send(messages.error(exc.code, exc.message, request_id, exc.details))
            return
        self.send(messages.answered(request_id, suspension.name))

    # -- from the kernel ---------------------------------------------------------------------------------

    def progress(self, trigger: request.Trigger, progress: Progress) -> None:
        """The handler waits: its trigger no longer stands in the panel's queue, and others of this client
        may.
        """
        if not self.closed:
            self.room.send(self, text_frame(messages.progress(trigger.request_id, progress)))
        if trigger not in self.suspended:
            self.suspended.add(trigger)
            self.admitted -= 1
            self._admit()

    def answer(self, trigger: request.Trigger, answer: Answer) -> None:
        """The one RESULT or ERROR for a trigger that was accepted."""
        self.in_flight -= 1
        if trigger in self.suspended:
            self.suspended.discard(trigger)
        else:
            self.admitted -= 1
        if not self.closed:
            self.room.send(self, text_frame(messages.answer(trigger.request_id, answer)))
        self._admit()

    def _admit(self) -> None:
        # a trigger that is answered within submit calls this again: the outermost call goes on with the rest,
        # or a long backlog that is refused would pass the interpreter's bound of nested calls
        if self._admitting:
            return
        self._admitting = True
        try:
            while self.backlog and self.admitted < self._limits.admitted:
                self.admitted += 1
                self._kernel.intake.submit(self.backlog.popleft())
        finally:
            self._admitting = False

    def send(self, payload: bytes) -> None:
        """Queues a message for this client only."""
        if not self.closed:
            self.room.send(self, text_frame(payload))
            self._kernel.turn.request_seal()

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the socket after everything that is queued has been sent."""
        if not self.closed:
            self._kernel.turn.after(lambda: self._transport.close(code, reason))

    def dismiss(self, reason: str) -> None:
        """The client's token holds no more: nothing that it asks for is done, and its socket is closed."""
        self.principal = NOBODY
        self.close(CloseCode.TOKEN_EXPIRED, reason)

    def deliver(self, frames: bytes, items: list[Commit | bytes]) -> None:
        """Called by the turn when it leaves."""
        if self._opening is not None:
            (head, image, tail), self._opening = self._opening, None
            self._transport.begin(head, image, tail)
        self._transport.deliver(frames, items)

    def lost(self) -> None:
        """The socket is gone: leaves the room.

        Triggers already accepted still run; their answers are dropped.
        """
        if not self.closed:
            self.closed = True
            self.private.clear()
            if self._opening is not None:
                self._opening[1].release()
                self._opening = None
            self.room.leave(self)
            self._kernel.connection_lost(self)


def _given(value: str | msgspec.UnsetType) -> str | None:
    return value if isinstance(value, str) else None
