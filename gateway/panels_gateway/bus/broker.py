"""The broker: the ROUTER socket that drives the dispatcher. It is a shell and holds no rules.

Frames are read until there are none, decoded, and fed to the dispatcher message by message; accepted
results go to the kernel, which commits and answers. What the dispatcher then has to send goes out once per
loop turn, one frame per peer.

ZeroMQ facts this rests on: ZMQ_FD is edge-triggered, so after it fires *and after every send* the socket
is read until EAGAIN; a ROUTER drops what it cannot route unless ROUTER_MANDATORY; bytes from a peer
without a mechanism are hostile until they decode. What it does not protect against: a peer that connects
to the socket and floods it with valid frames; the socket's directory is for this user alone, and
``tcp://`` needs CURVE keys.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import zmq

from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.observe.counters import BrokerCounters
from panels_gateway.panels.trigger import Trigger
from panels_shared import messages as m
from panels_shared import wire
from panels_shared.endpoint import CurveKeys
from panels_shared.errors import PanelsError, WireError
from panels_shared.limits import MIB
from panels_shared.messages import PoolId, Refusal, ToGateway, ToWorker, WorkerId
from panels_shared.outcome import Outcome, Reason

logger = logging.getLogger(__name__)

#: Frames read in one go before clients get their turn.
FRAMES_PER_TURN: Final = 64
#: Frames a peer may have waiting in ZeroMQ; the dispatcher's credit stays far below.
HIGH_WATER_FRAMES: Final = 1_024
#: Bytes of values put into one frame; what is larger goes in frames of its own.
FRAME_BYTES: Final = 8 * MIB
#: Peers that are told apart by their bad frames; a security limit.
_SESSION_BYTES: Final = 16


class BrokerError(PanelsError):
    """The endpoint cannot be bound. The text says what to do."""


class Results(Protocol):
    """Who commits and answers; see ``kernel``."""

    def finish(self, run: Run, outcome: Outcome) -> None:
        """Commits and answers; confirms the run, or refuses it."""
        ...

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        """Answers a trigger that no worker will."""
        ...

    def overdue(self, trigger: Trigger, message: str) -> None:
        """Answers a trigger that has waited for too long."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...

    def prepared(self, digest: bytes, refusal: Refusal | None) -> None:
        """A handler's preparation has ended."""
        ...

    def flush(self) -> None:
        """Sends clients what has come up in this turn."""
        ...


class Broker:
    """See the module's docstring. ``clock`` gives monotonic seconds."""

    def __init__(
        self,
        endpoint: str,
        dispatcher: Dispatcher,
        kernel: Results,
        *,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float = 0.5,
        curve: CurveKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.counters = BrokerCounters()
        self._dispatcher = dispatcher
        self._kernel = kernel
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._curve = curve
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._auth: object = None
        self._fd = -1
        self._sessions: dict[bytes, bytes] = {}
        self._flush_due = False
        self._look_due = False
        self._reading = False
        self._timers: list[asyncio.TimerHandle] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Binds and begins to serve. Raises ``BrokerError``."""
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        socket = self._socket = self._context.socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        socket.set(zmq.SNDHWM, HIGH_WATER_FRAMES)
        socket.set(zmq.RCVHWM, HIGH_WATER_FRAMES)
        socket.set(zmq.HANDSHAKE_IVL, 3_000)
        try:
            self._bind(socket)
        except (zmq.ZMQError, OSError, BrokerError) as exc:
            await self.stop()
            if isinstance(exc, BrokerError):
                raise
            raise BrokerError(f"expected to bind {self.endpoint}, got: {exc}") from None
        self._fd = int(socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self._readable)
        self._beat()
        self._tick()
        self._readable()

    def _bind(self, socket: zmq.Socket[bytes]) -> None:
        if self.endpoint.startswith("ipc://"):
            path = Path(self.endpoint.removeprefix("ipc://"))
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileNotFoundError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    path.unlink()  # a gateway that was killed leaves its socket behind
            mask = os.umask(0o177)
            try:
                socket.bind(self.endpoint)
            finally:
                os.umask(mask)
            return
        if self._curve is None:
            raise BrokerError(
                f"expected CURVE keys for {self.endpoint}: workers on a network must prove who they are; "
                "give the key files, or use an ipc:// endpoint"
            )
        self._secure(socket, self._curve)
        socket.bind(self.endpoint)

    def _secure(self, socket: zmq.Socket[bytes], curve: CurveKeys) -> None:
        from zmq.auth.thread import ThreadAuthenticator

        assert self._context is not None
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        self._auth = authenticator

        class Allowed:
            def callback(self, domain: str, key: bytes) -> bool:
                return key in curve.peers

        authenticator.configure_curve_callback(domain="*", credentials_provider=Allowed())
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_PUBLICKEY, curve.public)
        socket.set(zmq.CURVE_SECRETKEY, curve.secret)
        socket.set(zmq.ZAP_DOMAIN, b"panels")

    async def stop(self) -> None:
        """Tells everyone to drain, and closes. Idempotent."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._socket is not None and self._fd >= 0:
            assert self._loop is not None
            self._loop.remove_reader(self._fd)
            for peer in list(self._dispatcher.peers()):
                self._send(peer, [m.Drain()])
            self._fd = -1
        if self._socket is not None:
            self._socket.close(linger=200)
            self._socket = None
        if self._auth is not None:
            self._auth.stop()  # type: ignore[attr-defined]
            self._auth = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def request_flush(self) -> None:
        """Has everything that is due sent once, at the end of this loop turn."""
        if not self._flush_due and self._loop is not None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # -- in ------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Reads until there is nothing, or clients should have their turn."""
        socket = self._socket
        if socket is None or self._reading:
            return
        self._reading = True
        counters = self.counters
        receive = socket.recv_multipart
        try:
            for _ in range(FRAMES_PER_TURN):
                try:
                    parts = receive(zmq.NOBLOCK)
                except zmq.Again:
                    break
                counters.frames_in += 1
                self._frame(parts)
            else:
                assert self._loop is not None
                self._loop.call_soon(self._readable)
        finally:
            self._reading = False
        self._flush()

    def _frame(self, parts: Sequence[bytes]) -> None:
        peer = WorkerId(parts[0])
        try:
            if len(parts) != 2:
                raise WireError(f"expected one part, got {len(parts) - 1}")
            messages = wire.decode_to_gateway(parts[1])
        except WireError as exc:
            self.counters.bad_frames += 1
            logger.warning("peer %s sent a bad frame: %s", peer.hex()[:16], exc)
            self._sessions.pop(peer, None)
            self._dispatcher.lost(peer, self._clock())
            return
        self.counters.messages_in += len(messages)
        now = self._clock()
        dispatcher = self._dispatcher
        dispatcher.heard(peer, now)
        for message in messages:
            if type(message) is m.Result:
                run = dispatcher.accept(peer, message, now)
                if run is not None:
                    self._kernel.finish(run, message.outcome)
            else:
                self._control(peer, message, now)

    def _control(self, peer: WorkerId, message: ToGateway, now: float) -> None:
        dispatcher = self._dispatcher
        match message:
            case m.Hello():
                self._sessions.pop(peer, None)
                if dispatcher.hello(peer, message, now):
                    # a session of its own each time: whatever the peer had from before is void, here too
                    self._sessions[peer] = os.urandom(_SESSION_BYTES)
                    logger.info("%s %s of process %d is here", message.role, peer.hex()[:16], message.pid)
                    self._welcome(peer)
            case m.Heartbeat():
                dispatcher.heard(WorkerId(message.worker), now)
            case m.Missing():
                dispatcher.missing(peer, message, now)
            case m.Prepared():
                dispatcher.prepared(PoolId(peer), message, now)
            case m.Exited():
                self._sessions.pop(message.worker, None)
                dispatcher.exited(PoolId(peer), WorkerId(message.worker), now)
            case m.Goodbye():
                if not message.draining:
                    self._sessions.pop(peer, None)
                dispatcher.goodbye(peer, draining=message.draining, now=now)
            case m.Result():
                raise AssertionError("handled by the caller")

    # -- out -----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        socket = self._socket
        if socket is None:
            return
        now = self._clock()
        dispatcher = self._dispatcher
        for trigger, reason, text in dispatcher.take_failures():
            self._kernel.failed(trigger, reason, text)
        for trigger, text in dispatcher.overdue.take():
            self._kernel.overdue(trigger, text)
        for digest, refusal in dispatcher.preparations.take_prepared():
            self._kernel.prepared(digest, refusal)
        for peer, messages in dispatcher.drain(now):
            if not self._send(peer, messages):
                self._sessions.pop(peer, None)
                dispatcher.lost(peer, now)
                self.request_flush()
        self._kernel.flush()

    def _look_again(self) -> None:
        """Reads what came while the descriptor said nothing."""
        self._look_due = False
        socket = self._socket
        if socket is not None and int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._readable()

    def _send(self, peer: bytes, messages: Sequence[ToWorker]) -> bool:
        """Sends ``messages`` in as few frames as their sizes allow; False when the peer cannot be reached."""
        socket = self._socket
        assert socket is not None
        if not self._look_due and not self._reading and self._loop is not None:
            # any send, a heartbeat's or one that fails as well, may consume the edge of the descriptor, and
            # what came with it would never be read
            self._look_due = True
            self._loop.call_soon(self._look_again)
        for run in _runs(messages):
            try:
                socket.send_multipart((peer, wire.encode(run)), zmq.NOBLOCK, copy=True)
            except zmq.ZMQError as exc:
                self.counters.unroutable += 1
                logger.info("peer %s cannot be reached: %s", peer.hex()[:16], exc)
                return False
            self.counters.frames_out += 1
        return True

    def _welcome(self, peer: WorkerId) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            self._send(peer, [m.Welcome(session, int(self._heartbeat_s * 1_000))])

    # -- time ----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """The gateway's heartbeat: a Welcome to everyone, again."""
        for peer in list(self._dispatcher.peers()):
            self._welcome(peer)
        self._after(self._heartbeat_s, self._beat)

    def _tick(self) -> None:
        # a gateway that did not run for a while has not listened either: hear everybody before
        # anyone counts as silent
        self._look_again()
        self._dispatcher.tick(self._clock())
        self._kernel.tick()
        self._flush()
        self._after(self._dispatcher.next_tick_s(), self._tick)

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        if self._socket is not None:
            self._timers = [
                timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()
            ]
            self._timers.append(self._loop.call_later(seconds, callback))


def _runs(messages: Sequence[ToWorker]) -> Sequence[Sequence[ToWorker]]:
    if len(messages) <= wire.MAX_MESSAGES and sum(map(_size, messages)) <= FRAME_BYTES:
        return (messages,)
    runs: list[list[ToWorker]] = [[]]
    size = 0
    for message in messages:
        own = _size(message)
        if runs[-1] and (size + own > FRAME_BYTES or len(runs[-1]) >= wire.MAX_MESSAGES):
            runs.append([])
            size = 0
        runs[-1].append(message)
        size += own
    return runs


def _size(message: ToWorker) -> int:
    if type(message) is m.Job:
        return len(message.args)
    if isinstance(message, m.Resume):
        return len(message.image) + sum(len(answered.value) for answered in message.answers)
    if isinstance(message, m.Snapshot):
        return sum(len(key) + len(value) for key, value in message.state.items())
    if isinstance(message, m.Delta):
        return sum(len(key) + len(value or b"") for key, value in message.changes.items())
    if isinstance(message, m.Prepare):
        return len(message.source)
    return 0
