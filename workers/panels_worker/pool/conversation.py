"""The pool's conversation with the gateway: a socket, the peer that holds the rules, and what waits to be
sent.

Queue: messages that wait for a connection. Unit: messages. Bound: ``MAX_UNSENT``. Overflow policy: the oldest
are dropped. A gateway that missed them notices from silence what they said, or has been replaced by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import zmq

from panels_shared.endpoint import CurveKeys
from panels_shared.messages import Abandon, Heartbeat, Hello, PoolId, PoolReport, Prepare, Replace, ToGateway
from panels_shared.reminder import Reminder
from panels_shared.wire import encode
from panels_worker.bus import link
from panels_worker.bus.peer import Peer, Phase

logger = logging.getLogger("panels.worker.pool")

#: Frames read in one turn.
MAX_READS: Final = 64
#: Messages that wait for a connection, at most.
MAX_UNSENT: Final = 4_096
#: After how many seconds without a Welcome that is said in the log, and then ever more rarely.
PATIENCE_S: Final = 10.0


class Conversation:
    """See the module's docstring. Times are monotonic seconds.

    ``hello`` makes the next Hello, or None while there is none to say, and ``report`` what a heartbeat tells.
    In each turn the owner calls ``read``, then ``say``, and sleeps until ``deadline_s`` at the latest, or
    until ``socket`` is ready for ``wanted_events`` or ``watch`` is readable. ``close`` says Goodbye.
    """

    def __init__(
        self,
        endpoint: str,
        curve: CurveKeys | None,
        *,
        pool: PoolId,
        hello: Callable[[], Hello | None],
        report: Callable[[], PoolReport | None] = lambda: None,
        now_s: float,
    ) -> None:
        self._pool = pool
        self._hello = hello
        self._report = report
        self._endpoint = endpoint
        self._alone = Reminder(first_s=PATIENCE_S)
        self._alone.begin(now_s)
        #: The gateway does not know our CURVE key; there will be no connection.
        self.refused = False
        self._peer = Peer(hello, now_s=now_s, drainable=False)
        self._unsent: list[ToGateway] = []
        self._next_beat_s = 0.0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self.socket = link.connect(self._context, endpoint, pool, curve)
        self.watch = link.watch(self.socket)

    @property
    def hopeless(self) -> bool:
        """Whether the gateway speaks another protocol."""
        return self._peer.hopeless

    @property
    def wanted_events(self) -> int:
        """What to wait for on ``socket``."""
        return zmq.POLLIN | zmq.POLLOUT if self._unsent else zmq.POLLIN

    @property
    def deadline_s(self) -> float | None:
        """When ``say`` wants to be called next; None for no time."""
        times = [self._peer.deadline_s] if not self._unsent else []
        if self._peer.session is not None:
            times.append(self._next_beat_s)
        return min((at_s for at_s in times if at_s is not None), default=None)

    def read(self, now_s: float) -> list[Prepare | Abandon | Replace]:
        """What the gateway wants, in order."""
        if how := link.broke(self.watch):
            self.refused = self.refused or how is link.Break.REFUSED
            self._peer.rejoin(now_s)  # whoever listens there next may not know us
        wanted: list[Prepare | Abandon | Replace] = []
        for _ in range(MAX_READS):
            try:
                frame = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            messages = self._peer.feed(frame, now_s)
            if self._peer.take_reset():
                self._unsent.clear()  # meant for a gateway that is gone
            for message in messages:
                if isinstance(message, Prepare | Abandon | Replace):
                    wanted.append(message)
                else:
                    logger.warning(
                        "expected what a pool is told, got %s from the gateway", type(message).__name__
                    )
        return wanted

    def queue(self, messages: Iterable[ToGateway]) -> None:
        """Takes messages that the next ``say`` sends."""
        self._unsent.extend(messages)

    def say(self, now_s: float) -> None:
        """Sends what waits, and what is due: Hello or a heartbeat."""
        peer = self._peer
        self._complain(now_s)
        if not self._unsent:  # else a Hello would only queue behind it
            peer.tick(now_s)
        self._unsent += peer.drain()
        if peer.session is not None and now_s >= self._next_beat_s:
            self._next_beat_s = now_s + peer.heartbeat_s
            self._unsent.append(Heartbeat(self._pool, 0, self._report()))
        self._renew_hello()
        if not self._unsent:
            return
        try:
            self.socket.send(encode(self._unsent[:MAX_UNSENT]), zmq.NOBLOCK)
        except zmq.Again:
            del self._unsent[:-MAX_UNSENT]
        else:
            del self._unsent[:MAX_UNSENT]

    def _renew_hello(self) -> None:
        """A Hello that has waited for a connection is for a gateway that may have another key by now."""
        if any(isinstance(message, Hello) for message in self._unsent):
            renewed = [self._hello() if isinstance(each, Hello) else each for each in self._unsent]
            self._unsent = [message for message in renewed if message is not None]

    def _complain(self, now_s: float) -> None:
        """Says that no gateway welcomes us, ever more rarely, and once that one does after all."""
        if self._peer.phase is not Phase.JOINING:
            if self._alone.told:
                logger.info("the gateway at %s is there", self._endpoint)
            self._alone.end()
            return
        self._alone.begin(now_s)
        lasted_s = self._alone.due(now_s)
        if lasted_s is not None:
            logger.warning(
                "the gateway at %s has not welcomed this pool for %.0f s, and no handler runs here: %s",
                self._endpoint,
                lasted_s,
                link.look_at(self._endpoint),
            )

    def close(self) -> None:
        """Says Goodbye after what waits, as far as the gateway takes it, and closes the socket."""
        self._peer.depart()
        self._unsent += self._peer.drain()
        try:
            self.socket.send(encode(self._unsent[-MAX_UNSENT:]), zmq.NOBLOCK)
        except zmq.Again:
            pass
        link.close(self.socket, self._context, self.watch)
