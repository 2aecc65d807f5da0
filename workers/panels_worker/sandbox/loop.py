"""The first thread of a sandbox process: reads frames, runs jobs, sends results. This is a
shell and holds no rules.

One turn reads what is waiting, runs jobs until the queue is empty or it is time to look up again, and sends
the results as one frame. It looks up after ``BATCH`` results or ``BATCH_S`` seconds, so that nobody waits for
a batch to fill and a revocation is heard soon. With nothing to do it spins for a while if that has lately
been worth it, and sleeps.

It waits in ``zmq_poll``, which does not miss the edge of the socket's descriptor.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from typing import Final

import zmq

from panels_shared.errors import WireError
from panels_shared.messages import ToGateway
from panels_shared.wire import encode
from panels_worker.bus import link
from panels_worker.bus.peer import Peer, Phase
from panels_worker.sandbox.sandbox import HIGH_WATER, Sandbox
from panels_worker.sandbox.spin import DISTURBED_US, Spin
from panels_worker.sandbox.ticker import Shared
from panels_worker.status import Exit, State

logger = logging.getLogger("panels.worker.sandbox")

#: Results in one frame, and how long the first of them may wait for the last.
BATCH: Final = 16
BATCH_S: Final = 0.001
#: Frames read in one turn.
MAX_READS: Final = 64
#: A frame larger than this is sent as one frame per result.
LARGE_FRAME_BYTES: Final = 8 * 1024 * 1024
#: After this long without a request a draining process assumes that nothing more is on its way.
QUIET_S: Final = 0.25
#: How often a busy loop looks after its peer, signals and connection.
CONVERSE_S: Final = 0.05
#: The longest sleep.
MAX_WAIT_S: Final = 0.5


class Loop:
    """Drives ``peer`` and ``sandbox`` from ``socket`` until it is time to go.

    ``watch`` says when the connection breaks (``link``). ``wakeup_fd`` becomes readable with a signal;
    ``terminating`` asks to drain. A process that
    ``can_reconnect`` waits for a gateway that is gone; one that cannot (its filter denies it) ends, and its
    successor waits.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        *,
        watch: zmq.Socket[bytes],
        peer: Peer,
        sandbox: Sandbox,
        spin: Spin,
        shared: Shared,
        wakeup_fd: int,
        can_reconnect: bool,
    ) -> None:
        self.terminating = False
        self.can_reconnect = can_reconnect
        self._socket = socket
        self._peer = peer
        self._sandbox = sandbox
        self._spin = spin
        self._shared = shared
        self._wakeup_fd = wakeup_fd
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(wakeup_fd, zmq.POLLIN)
        self._watch = watch
        self._poller.register(watch, zmq.POLLIN)
        self._results: list[ToGateway] = []
        # bound: what one batch makes; nothing is run while anything waits here
        self._unsent: deque[bytes] = deque()
        self._asked_s = self._converse_s = time.monotonic()

    def connect(self) -> Exit | None:
        """Waits until there is a connection, and says and reads nothing. Returns an exit if it never will."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLOUT)
        poller.register(self._wakeup_fd, zmq.POLLIN)
        while not self.terminating:
            ready = dict(poller.poll(int(MAX_WAIT_S * 1000)))
            if self._wakeup_fd in ready:
                os.read(self._wakeup_fd, 512)
            elif self._socket in ready:
                return None
        return Exit.OK

    def join(self) -> Exit | None:
        """Waits until the gateway has welcomed this process, and runs nothing. Returns an exit if it never
        will.
        """
        while self._peer.session is None:
            if self.terminating:
                return Exit.OK
            if self._peer.hopeless:
                return Exit.PROTOCOL
            now_s = time.monotonic()
            if not self.can_reconnect and not self._has_connection(now_s):
                return Exit.LOST
            self._converse(now_s)
            if not self._read(MAX_READS):
                self._sleep()
        return None

    def serve(self) -> Exit:
        """Runs jobs until the gateway or a signal ends it, and says why it ended."""
        # at once, because the first job may be long, and heartbeats must go on during it
        self._converse(time.monotonic())
        fresh = False
        while True:
            # after a wait one frame is enough to begin with: what came with it is read when that has been
            # answered
            self._read(1 if fresh else MAX_READS)
            fresh = False
            if self._sandbox.queue and not self._unsent and not self._work():
                return self._give_up(Exit.DEFECT)
            now_s = time.monotonic()
            if now_s >= self._converse_s or self.terminating:
                self._converse(now_s)
                exit_code = self._ending(now_s)
                if exit_code is not None:
                    return self._give_up(exit_code)
            if not self._sandbox.queue or self._unsent:
                fresh = self._wait()

    def _read(self, most: int) -> int:
        """Reads what is waiting, as far as there is room for it. Returns the number of frames."""
        socket = self._socket
        reads = 0
        # asking costs half of what an exception does, and mostly there is nothing
        while (
            reads < most
            and len(self._sandbox.queue) < HIGH_WATER
            and int(socket.get(zmq.EVENTS)) & zmq.POLLIN
        ):
            try:
                frame = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            reads += 1
            self._take(frame)
        return reads

    def _take(self, frame: bytes) -> None:
        peer = self._peer
        now_s = time.monotonic()
        messages = peer.feed(frame, now_s)
        if peer.take_reset():
            self._reset()
        if messages:
            self._asked_s = now_s
            self._sandbox.accept(messages)
        else:
            self._converse_s = now_s  # there may be something to say to that

    def _work(self) -> bool:
        """Runs jobs for a batch's time and sends their results. False if this process must be given up."""
        sandbox = self._sandbox
        queue = sandbox.queue
        results = self._results
        monotonic = time.monotonic
        until_s = monotonic() + BATCH_S
        try:
            while queue:
                answer = sandbox.run_next()
                if answer is not None:
                    results.append(answer)
                    if len(results) >= BATCH or monotonic() >= until_s:
                        break
                if sandbox.defect:
                    break
        except WireError as exc:
            logger.warning("a message from the gateway does not validate: %s", exc)
            self._peer.offend(monotonic())
            if self._peer.take_reset():
                self._reset()
            return True
        self._flush()
        return not sandbox.defect

    def _flush(self) -> None:
        """Sends the results, or keeps them until the socket takes them."""
        results = self._results
        if results:
            frame = encode(results)
            if len(frame) > LARGE_FRAME_BYTES and len(results) > 1:
                self._unsent.extend(encode([result]) for result in results)
            else:
                self._unsent.append(frame)
            results.clear()
        unsent = self._unsent
        while unsent:
            try:
                self._socket.send(unsent[0], zmq.NOBLOCK)
            except zmq.Again:
                break
            unsent.popleft()

    def _converse(self, now_s: float) -> None:
        """Sends what the peer has to say, after results that are waiting."""
        peer = self._peer
        if self._shared.stopped:
            self._shared.stopped = False
            peer.rejoin(now_s)
        if self.terminating and peer.phase is not Phase.LEAVING:
            self._asked_s = now_s
            peer.leave()
        if not self._unsent:  # else a Hello would only queue behind it
            peer.tick(now_s)
        self._converse_s = now_s + CONVERSE_S
        if peer.phase is Phase.LEAVING:
            self._shared.state = State.LEAVING
        self._shared.beating = peer.session is not None
        self._shared.heartbeat_s = peer.heartbeat_s
        self._results.extend(peer.drain())
        self._flush()

    def _ending(self, now_s: float) -> Exit | None:
        """Why this process should end now, if it should."""
        peer = self._peer
        if peer.hopeless:
            return Exit.PROTOCOL
        if peer.phase is Phase.LEFT:
            return Exit.OK
        if peer.phase is Phase.LEAVING:
            done = not self._sandbox.queue and not self._unsent
            quiet = peer.fenced or now_s - self._asked_s >= QUIET_S
            return Exit.OK if (done and quiet) or not self._has_connection(now_s) else None
        if not self.can_reconnect and not self._has_connection(now_s):
            return Exit.LOST
        return None

    def _give_up(self, exit_code: Exit) -> Exit:
        self._peer.depart()
        self._unsent.extend(encode([message]) for message in self._peer.drain())
        self._flush()
        return exit_code

    def _has_connection(self, now_s: float) -> bool:
        # ZMQ_IMMEDIATE is set: a socket without a connection has nowhere to send to
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLOUT:
            return True
        # nor has one whose gateway is behind with reading, but from that one something is heard
        return bool(self._unsent) and not self._peer.silent(now_s)

    def _reset(self) -> None:
        self._sandbox.reset()
        self._results.clear()
        self._unsent.clear()

    def _wait(self) -> bool:
        """Spins for a while if that was worth it lately, then sleeps.

        True when there is something to read.
        """
        spin = self._spin
        began_s = time.perf_counter()
        budget_us = spin.budget_us
        if budget_us and not self._unsent:
            socket = self._socket
            last_s, until_s = began_s, began_s + budget_us * 1e-6
            while last_s < until_s:
                if int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
                    spin.waited((time.perf_counter() - began_s) * 1e6)
                    return True
                os.sched_yield()
                look_s = time.perf_counter()
                if look_s - last_s > DISTURBED_US * 1e-6:
                    spin.disturbed()
                    break
                last_s = look_s
        if self._sleep():
            spin.waited((time.perf_counter() - began_s) * 1e6)
            return True
        return False

    def _sleep(self) -> bool:
        """Sleeps until there is something to read, send or say. True when there is something to read."""
        now_s = time.monotonic()
        due_s = now_s + (QUIET_S / 4 if self._peer.phase is Phase.LEAVING else MAX_WAIT_S)
        deadline_s = self._peer.deadline_s
        if deadline_s is not None and deadline_s < due_s and not self._unsent:
            due_s = deadline_s
        if self._unsent:
            self._poller.modify(self._socket, zmq.POLLIN | zmq.POLLOUT)
        ready = self._poller.poll(int(max(0.0, due_s - now_s) * 1000) + 1)
        if self._unsent:
            self._poller.modify(self._socket, zmq.POLLIN)
        for what, event in ready:
            if what is self._socket and event & zmq.POLLIN:
                return True
        # something else ended the wait: time, a signal, or room to send
        self._converse_s = now_s
        for what, _ in ready:
            if what == self._wakeup_fd:
                os.read(self._wakeup_fd, 512)
            elif what is self._watch and link.broke(self._watch) and self.can_reconnect:
                self._peer.rejoin(now_s)
        return False
