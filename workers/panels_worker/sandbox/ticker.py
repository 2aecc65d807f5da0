"""The second thread of a sandbox process: it keeps time while the first runs a guest.

About every 5 ms it moves the engine's epoch on, which is what ends a guest that runs past its deadline: by
one tick, or by as many as have passed for the job that is running. So a deadline holds in a process that has
rested, and where a guest calls its host so often that this thread has to wait for the interpreter. Several
times a second it reports to the pool, and as often as the gateway asked it sends a heartbeat, on a socket of
its own (a ZeroMQ socket belongs to one thread). A process that has been stopped for a while finds out here,
too.

A heartbeat says that the process is alive, not that its job makes progress.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from panels_shared.messages import Heartbeat
from panels_shared.wire import encode
from panels_worker import status
from panels_worker.guest.engine import EPOCH_TICK_MS
from panels_worker.sandbox.sandbox import Sandbox
from panels_worker.status import Report, State
from panels_worker.title import write_title

#: How often the epoch moves on, in a busy process and in one that has rested for ``REST_TICKS``.
TICK_S: Final = EPOCH_TICK_MS / 1e3
RESTING_TICK_S: Final = 0.05
REST_TICKS: Final = 200
REPORT_S: Final = 0.25
#: The most that the epoch moves on at once: the time that a process was stopped is not its job's to answer
#: for.
MAX_TICKS: Final = 200
#: A tick that comes this late means that the process was stopped, or might as well have been.
STOPPED_S: Final = 1.0

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Shared:
    """What the two threads share. Each field has one writer, named in its comment; reads may be stale."""

    state: State = State.WAITING  # loop
    heartbeat_s: float = 0.5  # loop
    beating: bool = False  # loop: there is a gateway to send heartbeats to
    stopped: bool = False  # ticker sets it, loop clears it: this process did not run for a while
    connected: bool = False  # ticker: its socket has a connection


def ticks_due(counted_s: float, started_s: float, now_s: float) -> tuple[int, float]:
    """How far the epoch moves on at ``now_s``, and up to when time is counted after that.

    Time is counted up to ``counted_s``, and a job that began at ``started_s`` answers for none before.
    Whole ticks count, and what is left of one is there the next time: over a job they are never more than
    its time in ticks. At most ``MAX_TICKS`` count at once.
    """
    since_s = max(counted_s, started_s)
    due = int((now_s - since_s) / TICK_S)
    return (due, since_s + due * TICK_S) if due <= MAX_TICKS else (MAX_TICKS, now_s)


class Ticker(threading.Thread):
    """The thread. ``tick`` moves the epoch on; ``connect`` makes its socket, in the thread.

    ``report_fd`` is non-blocking: a report that nobody reads is dropped. ``statm_fd`` is /proc/self/statm,
    opened before this process was confined; so is ``comm_fd``, to which the title is written, -1 for none.
    """

    def __init__(
        self,
        *,
        tick: Callable[[], object],
        connect: Callable[[], zmq.Socket[bytes]],
        worker: bytes,
        sandbox: Sandbox,
        shared: Shared,
        report_fd: int,
        statm_fd: int,
        comm_fd: int = -1,
    ) -> None:
        super().__init__(name="ticker", daemon=True)
        self._tick = tick
        self._connect = connect
        self._worker = worker
        self._sandbox = sandbox
        self._shared = shared
        self._report_fd = report_fd
        self._statm_fd = statm_fd
        self._comm_fd = comm_fd
        self._titled: State | None = None
        self._running_job = 0
        self._running_since_s = 0.0
        self._rested_ticks = 0
        self._closing = False

    def close(self) -> None:
        """Ends the thread and closes its socket."""
        self._closing = True
        self.join()

    def run(self) -> None:
        """Ticks until it is closed."""
        socket = self._connect()
        monotonic = time.monotonic
        counted_s = last_s = next_report_s = next_beat_s = monotonic()
        shared = self._shared
        while not self._closing:
            time.sleep(TICK_S if self._rested_ticks < REST_TICKS else RESTING_TICK_S)
            now_s = monotonic()
            due, counted_s = ticks_due(counted_s, self._sandbox.started_s, now_s)
            for _ in range(due):
                self._tick()
            if now_s - last_s > STOPPED_S:
                shared.stopped = True
            last_s = now_s
            self._watch(now_s)
            if now_s >= next_report_s:
                next_report_s = now_s + REPORT_S
                self._report(now_s)
            if not shared.connected:
                shared.connected = bool(int(socket.get(zmq.EVENTS)) & zmq.POLLOUT)
            if shared.beating and now_s >= next_beat_s:
                next_beat_s = now_s + shared.heartbeat_s
                self._beat(socket)
        socket.close(linger=0)

    def _watch(self, now_s: float) -> None:
        """Notices how long the job that is running has been running, at no cost to the loop."""
        started = self._sandbox.started
        if started == self._sandbox.finished:
            self._running_job = 0
            self._rested_ticks += 1
            return
        self._rested_ticks = 0
        if started != self._running_job:
            self._running_job = started
            self._running_since_s = now_s

    def _report(self, now_s: float) -> None:
        busy_ms = int((now_s - self._running_since_s) * 1000) if self._running_job else 0
        state = self._shared.state
        if state is not self._titled:
            self._titled = state
            write_title(self._comm_fd, f"sandbox {state.name.lower()}")
        record = status.encode(Report(state, self._sandbox.finished, busy_ms))
        try:
            os.write(self._report_fd, record)
        except OSError:  # full: the pool is behind; broken: the pool is gone, and takes us along
            pass

    def _beat(self, socket: zmq.Socket[bytes]) -> None:
        resident_pages = int(os.pread(self._statm_fd, 128, 0).split()[1])
        try:
            socket.send(encode([Heartbeat(self._worker, resident_pages * _PAGE_BYTES)]), zmq.NOBLOCK)
        except zmq.Again:  # no connection: there is nobody to tell
            pass
