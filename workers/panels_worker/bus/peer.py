"""One side of the conversation with the gateway, without I/O: frames and times in, messages out.

    JOINING ──Welcome──▶ JOINED ──silence──▶ JOINING         says Hello every second until it is answered
                           │  └──bad frame──▶ JOINING        says Goodbye, forgets everything, waits a second
                           │  └──Drain, leave()──▶ LEAVING   wants no more, still answers
    JOINING, LEAVING ──────┴──────────────depart()──▶ LEFT   the end

The owner feeds every frame that it reads, calls ``tick`` by ``deadline_s`` at the latest, sends what
``drain`` returns, and asks ``take_reset`` after each feed: True means that everything known from the gateway
(tools, replicas, queued jobs) is void, and comes before the messages just returned.

Silence is not the end of a session: a gateway that comes back with the same session has lost nothing, and one
that has lost everything says so by a new session. Silence while there is no connection either is for the
owner to see.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum

from panels_shared.errors import WireError
from panels_shared.liveness import Liveness
from panels_shared.messages import Drain, Goodbye, Hello, ToGateway, ToWorker, Welcome
from panels_shared.wire import decode_to_worker

logger = logging.getLogger("panels.worker.bus")

#: How long a Hello waits for its Welcome, in seconds; and how long a peer keeps away after a bad frame.
HELLO_INTERVAL_S = 1.0
#: How soon a peer that has nothing to prove itself with looks again.
PROOF_INTERVAL_S = 0.1
#: After this many bad frames in a row the two sides evidently speak different versions.
MAX_BAD_FRAMES = 8
#: Security limits on what a Welcome may ask for.
MIN_HEARTBEAT_MS, MAX_HEARTBEAT_MS = 20, 60_000
MAX_SESSION_BYTES = 64


class Phase(Enum):
    """Where the conversation stands; the module's drawing has the transitions."""

    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


TRANSITIONS = frozenset(
    {
        (Phase.JOINING, Phase.JOINED),
        (Phase.JOINING, Phase.LEFT),
        (Phase.JOINED, Phase.JOINING),
        (Phase.JOINED, Phase.LEAVING),
        (Phase.LEAVING, Phase.LEFT),
    }
)


class Peer:
    """The state of one conversation. All times are monotonic seconds.

    ``hello`` is called whenever a Hello is due, because what proves the peer may have changed since the last
    one; None means that there is nothing to prove it with yet. ``drainable`` peers leave when the gateway
    sends Drain; others (pools) stay, for the gateway that comes next.
    """

    __slots__ = (
        "_bad_in_row",
        "_drainable",
        "_hello",
        "_liveness",
        "_next_hello_s",
        "_outbox",
        "_reset",
        "fenced",
        "phase",
        "session",
    )

    def __init__(self, hello: Callable[[], Hello | None], *, now_s: float, drainable: bool = True) -> None:
        self.phase = Phase.JOINING
        #: Names the gateway's run; None before the first Welcome and after a bad frame.
        self.session: bytes | None = None
        #: The gateway has answered our leaving: nothing more will come.
        self.fenced = False
        self._hello = hello
        self._drainable = drainable
        self._liveness = Liveness(last_heard_s=now_s)
        self._next_hello_s = now_s
        self._outbox: list[ToGateway] = []
        self._reset = False
        self._bad_in_row = 0

    @property
    def heartbeat_s(self) -> float:
        """How often each side speaks at least, as the last Welcome said."""
        return self._liveness.interval_s

    @property
    def hopeless(self) -> bool:
        """The gateway sends nothing but bad frames: another version, most likely. Not worth going on."""
        return self._bad_in_row >= MAX_BAD_FRAMES

    @property
    def deadline_s(self) -> float | None:
        """When ``tick`` wants to be called next; None for never."""
        if self.phase is Phase.JOINING:
            return self._next_hello_s
        if self.phase is Phase.JOINED:
            return self._liveness.lost_at_s
        return None

    def silent(self, now_s: float) -> bool:
        """Whether nothing has been heard for as long as it takes to be lost."""
        return self._liveness.lost(now_s)

    def feed(self, frame: bytes, now_s: float) -> Sequence[ToWorker]:
        """The messages of ``frame`` that are for the owner, in order; none when it does not validate."""
        if self.phase is Phase.LEFT:
            return ()
        try:
            messages = decode_to_worker(frame)
            for message in messages:
                kind = type(message)
                if kind is Welcome or kind is Drain:
                    _check(messages)
                    messages = self._converse(messages)
                    break
        except WireError as exc:
            logger.warning("a frame from the gateway does not validate: %s", exc)
            self.offend(now_s)
            return ()
        self._bad_in_row = 0
        if self.session is None:
            return ()
        self._liveness.heard(now_s)
        if self.phase is Phase.JOINING:
            self._set(Phase.JOINED)
        return messages

    def tick(self, now_s: float) -> None:
        """Says Hello when it is due, also after the gateway has been silent for too long."""
        if self.phase is Phase.JOINED and self._liveness.lost(now_s):
            self._set(Phase.JOINING)
            self._next_hello_s = now_s
        if self.phase is Phase.JOINING and now_s >= self._next_hello_s:
            hello = self._hello()
            self._next_hello_s = now_s + (PROOF_INTERVAL_S if hello is None else HELLO_INTERVAL_S)
            if hello is not None:
                self._outbox.append(hello)

    def rejoin(self, now_s: float) -> None:
        """Says Hello at once: the gateway may not know this process any more, because the connection broke or
        the process was stopped for too long.
        """
        if self.phase is Phase.JOINED:
            self._set(Phase.JOINING)
            self._next_hello_s = now_s
            self.tick(now_s)

    def leave(self) -> None:
        """Tells the gateway to send no more jobs; those that were sent are still answered. Idempotent."""
        if self.phase is Phase.JOINED:
            self._outbox.append(Goodbye(draining=True))
            self._set(Phase.LEAVING)
        elif self.phase is Phase.JOINING:
            self.depart()

    def depart(self) -> None:
        """The end: nothing is answered any more. Idempotent."""
        if self.phase is Phase.LEFT:
            return
        if self.phase is Phase.JOINED:
            self._set(Phase.LEAVING)
        self._outbox.append(Goodbye(draining=False))
        self._set(Phase.LEFT)

    def offend(self, now_s: float) -> None:
        """Begins anew after a frame that did not validate: its content is lost, so the two sides may
        disagree.
        """
        self._bad_in_row += 1
        self._reset = True
        self.session = None
        if self.phase is Phase.LEAVING:
            self.depart()
            return
        if self.phase is Phase.JOINED:
            self._outbox.append(Goodbye(draining=False))
            self._set(Phase.JOINING)
        self._next_hello_s = now_s + HELLO_INTERVAL_S

    def drain(self) -> list[ToGateway]:
        """What is to be sent, in order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def take_reset(self) -> bool:
        """Whether everything known from the gateway is void; False again afterwards."""
        reset, self._reset = self._reset, False
        return reset

    def _converse(self, messages: Sequence[ToWorker]) -> list[ToWorker]:
        """Takes what is for the peer itself out of ``messages``, which have been checked."""
        rest: list[ToWorker] = []
        for message in messages:
            if isinstance(message, Welcome):
                if message.session != self.session:
                    # whatever came earlier in this frame belongs to a session that is over
                    rest.clear()
                    self._reset = True
                    self.session = message.session
                self._liveness.interval_s = message.heartbeat_ms / 1000
            elif isinstance(message, Drain):
                if self.phase is Phase.LEAVING:
                    self.fenced = True
                elif self._drainable and self.session is not None:
                    if self.phase is Phase.JOINING:
                        self._set(Phase.JOINED)
                    self.leave()
            else:
                rest.append(message)
        return rest

    def _set(self, phase: Phase) -> None:
        assert (self.phase, phase) in TRANSITIONS, (self.phase, phase)
        self.phase = phase


def _check(messages: Sequence[ToWorker]) -> None:
    """Raises ``WireError`` for a Welcome outside its bounds."""
    for message in messages:
        if isinstance(message, Welcome):
            if not MIN_HEARTBEAT_MS <= message.heartbeat_ms <= MAX_HEARTBEAT_MS:
                raise WireError(f"expected a heartbeat of {MIN_HEARTBEAT_MS} to {MAX_HEARTBEAT_MS} ms")
            if not 1 <= len(message.session) <= MAX_SESSION_BYTES:
                raise WireError(f"expected a session of 1 to {MAX_SESSION_BYTES} bytes")
