"""The broker: the ROUTER socket that drives the dispatcher. It is a shell and holds no rules.

Frames are read until there are none, decoded, and fed to the dispatcher message by message; accepted
results go to the kernel, which commits and answers. What the dispatcher then has to send goes out once per
loop turn, one frame per peer.

No peer is believed. A frame is read only if its sender has not sent too much (``budgets``) and may have
been asked for as much (``Dispatcher.frame_bytes``), and an outcome only if somebody waits for it. A turn of
the loop ends after ``TURN_S``, whoever sends, in the middle of a message of many parts too.

ZeroMQ facts this rests on: ZMQ_FD is edge-triggered, so after it fires *and after every send* the socket
is read until EAGAIN; a ROUTER drops what it cannot route unless ROUTER_MANDATORY; bytes from a peer
without a mechanism are hostile until they decode; without ROUTER_HANDOVER, which is off unless set, a
routing id that is connected cannot be taken over by a second connection. Who may speak is ``admission``'s
to say. What it does not protect against: what ZeroMQ itself takes in before it is read, which is up to
``HIGH_WATER_IN`` messages of a peer, each of any number of parts of up to ``wire.MAX_FRAME_BYTES``; the
socket's directory is for this user alone, and ``tcp://`` needs CURVE keys.
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

from panels_gateway.bus import budgets
from panels_gateway.bus.admission import Admission, Role, Standing, Verdict
from panels_gateway.bus.attendance import Attendance
from panels_gateway.bus.budgets import Budgets
from panels_gateway.dispatch.allowance import UNASKED_BYTES, result_bytes
from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import Run
from panels_gateway.observe.pools import PoolReports
from panels_gateway.observe.rate_limited import RateLimitedLog
from panels_gateway.panels.trigger import Trigger
from panels_shared import messages as m
from panels_shared import wire
from panels_shared.endpoint import CurveKeys
from panels_shared.errors import PanelsError, WireError
from panels_shared.limits import MIB
from panels_shared.messages import PoolId, Refusal, ToWorker, WorkerId
from panels_shared.outcome import Outcome, Reason

logger = logging.getLogger("panels.gateway.bus")

#: Frames read in one go before clients get their turn.
FRAMES_PER_TURN: Final = 64
#: How long frames are read before clients get their turn, in seconds; what has been begun is finished.
TURN_S: Final = 0.004
#: Parts of one message that are taken, its routing id among them: a frame is one. What is above, which may be
#: a million, is thrown away, so many at a time.
MAX_PARTS: Final = 3
PARTS_PER_TURN: Final = 1_024
#: Frames that wait in ZeroMQ for a peer; the dispatcher's credit stays far below.
HIGH_WATER_FRAMES: Final = 1_024
#: Frames of a peer that wait in ZeroMQ to be read; the peer keeps the others.
HIGH_WATER_IN: Final = 32
#: Bytes of values put into one frame; what is larger goes in frames of its own.
FRAME_BYTES: Final = 8 * MIB
#: How often the log says that somebody was turned away, in seconds: anybody can cause it.
_REFUSAL_LOG_S: Final = 5.0
#: Peers that are told apart by their bad frames; a security limit.
_SESSION_BYTES: Final = 16
#: Under which name ZeroMQ asks the authenticator about peers of the socket.
_ZAP_DOMAIN: Final = "panels"


class BrokerError(PanelsError):
    """The endpoint cannot be bound. The text says what to do."""


class Results(Protocol):
    """Who commits and answers; see ``kernel``."""

    def finish(self, run: Run, outcome: Outcome) -> bool:
        """Commits and answers; confirms the run, or refuses it. False when the worker lied."""
        ...

    def failed(self, trigger: Trigger, reason: Reason, message: str) -> None:
        """Answers a trigger that no worker will."""
        ...

    def overdue(self, trigger: Trigger, message: str) -> None:
        """Answers a trigger that has waited for too long."""
        ...

    def outdated(self, trigger: Trigger) -> None:
        """Answers a trigger whose panel has another version than it expects."""
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
        admission: Admission,
        clock: Callable[[], float] = time.monotonic,
        heartbeat_s: float = 0.5,
        curve: CurveKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.counters = admission.counters
        #: What pools say of themselves, for metrics.
        self.reports = PoolReports()
        self._admission = admission
        self._next_refusal_log_s = float("-inf")
        self._dispatcher = dispatcher
        self._kernel = kernel
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._curve = curve
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._auth: object = None
        self._fd = -1
        self._budgets = Budgets()
        self._log = RateLimitedLog(logger)
        self._attendance = Attendance(endpoint)
        self._sessions: dict[bytes, bytes] = {}
        self._flush_due = False
        self._look_due = False
        self._reading = False
        #: whether the message that was read last has parts that are still to be thrown away
        self._surplus = False
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
        socket.set(zmq.RCVHWM, HIGH_WATER_IN)
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

        # callbacks come in the authenticator's thread, so they need a log of their own
        log, clock = RateLimitedLog(logger), self._clock

        class Allowed:
            def callback(self, domain: str, key: bytes) -> bool:
                if key in curve.peers:
                    return True
                log.log(
                    clock(),
                    logging.WARNING,
                    "refused a worker with the CURVE public key %s, which is not in curve-worker-keys-file",
                    key.decode("ascii", "replace"),
                )
                return False

        # the authenticator looks for the socket's own domain: "*" is what it takes where a socket has none
        authenticator.configure_curve_callback(domain=_ZAP_DOMAIN, credentials_provider=Allowed())
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_PUBLICKEY, curve.public)
        socket.set(zmq.CURVE_SECRETKEY, curve.secret)
        socket.set(zmq.ZAP_DOMAIN, _ZAP_DOMAIN.encode())

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
        receive = self._receive
        clock = self._clock
        until = clock() + TURN_S
        try:
            for _ in range(FRAMES_PER_TURN):
                if clock() > until:
                    self._read_later()
                    break
                try:
                    if self._surplus and not self._throw_away(socket):
                        self._read_later()
                        break
                    parts = receive(socket)
                except zmq.Again:
                    break
                counters.frames_in += 1
                self._frame(parts)
            else:
                self._read_later()
        finally:
            self._reading = False
        self._flush()

    def _receive(self, socket: zmq.Socket[bytes]) -> list[bytes]:
        """The next message's routing id and parts, at most ``MAX_PARTS`` of them. Raises ``zmq.Again``."""
        parts = [socket.recv(zmq.NOBLOCK)]
        while socket.get(zmq.RCVMORE):
            if len(parts) == MAX_PARTS:
                self._surplus = True
                break
            parts.append(socket.recv(zmq.NOBLOCK))
        return parts

    def _throw_away(self, socket: zmq.Socket[bytes]) -> bool:
        """Reads on to the end of a message of too many parts; False if that is not reached yet."""
        for _ in range(PARTS_PER_TURN):
            socket.recv(zmq.NOBLOCK, copy=False)
            if not socket.get(zmq.RCVMORE):
                self._surplus = False
                return True
        return False

    def _read_later(self) -> None:
        """Reads on in the next turn of the loop."""
        assert self._loop is not None
        self._loop.call_soon(self._readable)

    def _frame(self, parts: Sequence[bytes]) -> None:
        peer = WorkerId(parts[0])
        now = self._clock()
        standing = self._admission.standing(peer)
        if standing is None and not self._admission.listens_to(parts, parts[-1]):
            self._log_refusal(peer, "said something else than Hello")
            return
        if not self._budgets.has_room(peer, now):
            self.counters.throttled_frames += 1
            return
        messages = self._open(peer, standing, parts, now)
        if not messages:
            return
        self.counters.messages_in += len(messages)
        self._dispatcher.heard(peer, now)
        works = standing is not None and standing.role is Role.SANDBOX
        units = 0
        for message in messages:
            if works and type(message) is wire.UnreadResult:
                if not self._result(peer, message, now):
                    units += budgets.MESSAGE_UNITS
                continue
            units += budgets.CONTROL_UNITS
            standing = self._control(peer, standing, message, now)
            if standing is None:
                break
            works = standing.role is Role.SANDBOX
        if units:
            self._budgets.charge(peer, budgets.FRAME_UNITS + units, now)

    def _open(
        self, peer: WorkerId, standing: Standing | None, parts: Sequence[bytes], now: float
    ) -> Sequence[wire.Opened]:
        """The messages of a frame; none where it is refused."""
        try:
            if len(parts) != 2:
                raise WireError(f"expected one part, got {'several' if len(parts) > 2 else 'none'}")
            frame = parts[1]
            if len(frame) > UNASKED_BYTES and len(frame) > (most := self._dispatcher.frame_bytes(peer)):
                self.counters.unasked_frames += 1
                raise WireError(f"expected a frame of at most {most} bytes, got {len(frame)}")
            return wire.open_to_gateway(frame)
        except WireError as exc:
            if standing is None:
                self.counters.bad_frames += 1
                self._log_refusal(peer, "sent a bad frame")
            else:
                self._refuse(peer, standing.peer, sum(map(len, parts)), exc, now)
            return ()

    def _result(self, peer: WorkerId, message: wire.UnreadResult, now: float) -> bool:
        """Takes in how a run ended. False when nobody waited for that, or it was no outcome."""
        dispatcher = self._dispatcher
        tool = dispatcher.awaits(peer, message.job)
        if tool is None:
            dispatcher.unread(peer, message.job, now)
            return False
        size = memoryview(message.outcome).nbytes
        try:
            if size > UNASKED_BYTES and size > (most := result_bytes(tool)):
                raise WireError(f"expected an outcome of at most {most} bytes, got {size}")
            outcome = wire.decode_outcome(message.outcome)
        except WireError as exc:
            self._refuse(peer, peer, size, exc, now)
            return False
        run = dispatcher.accept(peer, m.Result(message.job, outcome), now)
        if run is None:
            return False
        if not self._kernel.finish(run, outcome):
            self.counters.lies += 1
            self._log.log(now, logging.WARNING, "peer %s reported what cannot be; dropped", peer.hex()[:16])
            self._budgets.charge(peer, budgets.REFUSED_UNITS, now)
            self._send(peer, [m.Drain()])
            self._lose(peer, now)
        return True

    def _refuse(self, sender: bytes, peer: WorkerId, size: int, problem: WireError, now: float) -> None:
        """A frame breaks the protocol, and so does the peer whom its sender speaks for."""
        self.counters.bad_frames += 1
        units = budgets.REFUSED_UNITS + size // budgets.BYTES_PER_UNIT
        self._budgets.charge(sender, units, now)
        self._log.log(now, logging.WARNING, "peer %s sent a bad frame: %s", peer.hex()[:16], problem)
        self._lose(peer, now)

    def _lose(self, peer: WorkerId, now: float) -> None:
        self._sessions.pop(peer, None)
        self._dispatcher.lost(peer, now)

    def _control(
        self, peer: WorkerId, standing: Standing | None, message: wire.Opened, now: float
    ) -> Standing | None:
        """Does what an admitted peer says, or admits it. Returns its standing, None for one that is out."""
        dispatcher = self._dispatcher
        if standing is not None and not self._admission.allows(standing, message):
            self._admission.breach(peer)
            text = "%s %s says %s, which it may not, and is out"
            word = type(message).__name__
            self._log.log(now, logging.WARNING, text, standing.role.value, peer.hex()[:16], word)
            self._lose(standing.peer, now)
            return None
        match message:
            case m.Hello():
                return self._hello(peer, message, now)
            case m.Heartbeat():
                dispatcher.heard(WorkerId(message.worker), now)
                if message.report is not None and standing is not None and standing.role is Role.POOL:
                    self.reports.take(peer, message.report)
            case m.Missing():
                dispatcher.missing(peer, message, now)
            case m.Prepared():
                dispatcher.prepared(PoolId(peer), message, now)
            case m.Exited():
                self._sessions.pop(message.worker, None)
                self._admission.exited(peer, message.worker)
                dispatcher.exited(PoolId(peer), WorkerId(message.worker), now)
            case m.Goodbye():
                if not message.draining:
                    self._sessions.pop(peer, None)
                dispatcher.goodbye(peer, draining=message.draining, now=now)
            case wire.UnreadResult():
                raise AssertionError("handled by the caller")
        return standing

    def _hello(self, peer: WorkerId, message: m.Hello, now: float) -> Standing | None:
        """Admits a peer, or admits it again. Nothing is answered to one that is not admitted."""
        verdict = self._admission.hello(peer, message)
        if verdict is not Verdict.ADMITTED:
            self._log_refusal(peer, f"said Hello as a {message.role}: {verdict.value}")
            if verdict is Verdict.BREACH:
                self._lose(peer, now)
            return None
        self._sessions.pop(peer, None)
        if not self._dispatcher.hello(peer, message, now):
            self._admission.forget(peer)
            self._log_refusal(peer, "said Hello, but there are too many peers")
            return None
        # a session of its own each time: whatever the peer had from before is void, here too
        self._sessions[peer] = os.urandom(_SESSION_BYTES)
        text = "%s %s of process %d is here"
        name = peer.hex()[:16]
        self._log.log(now, logging.INFO, text, message.role, name, message.pid, worker=name, pid=message.pid)
        if message.missing:
            missing = ascii("; ".join(message.missing))
            self._log.log(now, logging.WARNING, "sandbox %s runs without %s", peer.hex()[:16], missing)
        self._welcome(peer)
        return self._admission.standing(peer)

    def _log_refusal(self, peer: bytes, what: str) -> None:
        now = self._clock()
        if now >= self._next_refusal_log_s:
            self._next_refusal_log_s = now + _REFUSAL_LOG_S
            logger.warning(
                "a peer %s is not admitted: it %s; if it is a pool of yours, give it this gateway's bus key",
                peer.hex()[:16], what,
            )  # fmt: skip

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
        for trigger in dispatcher.take_outdated():
            self._kernel.outdated(trigger)
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
                text = "peer %s cannot be reached: %s"
                self._log.log(self._clock(), logging.INFO, text, peer.hex()[:16], exc)
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
        peers = set(self._dispatcher.peers())
        self._admission.retain(peers)
        self.reports.retain(peers)
        for peer in list(self._dispatcher.peers()):
            self._welcome(peer)
        self._after(self._heartbeat_s, self._beat)

    def _tick(self) -> None:
        # a gateway that did not run for a while has not listened either: hear everybody before
        # anyone counts as silent
        self._look_again()
        now = self._clock()
        self._dispatcher.tick(now)
        self._log_attendance(now)
        self._kernel.tick()
        self._flush()
        self._after(self._dispatcher.next_tick_s(), self._tick)

    def _log_attendance(self, now: float) -> None:
        line = self._attendance.look(self._dispatcher.sandboxes, self._dispatcher.unanswered, now)
        if line is not None:
            self._log.log(now, line.level, "%s", line.text)

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
