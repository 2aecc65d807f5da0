"""The pool: a supervisor process that prepares handlers and keeps sandbox processes alive.

Processes
    One pool; ``processes`` sandboxes, started by command line; at most a few compile children at a time, each of
    which ends with its handler. The pool runs no guest code and loads no artifact.
Threads
    One, in a poll loop; ZeroMQ has two of its own.
Heartbeat
    The pool sends its own; each sandbox sends its own, and reports to the pool besides (``status``).
Timeouts
    The supervisor's bounds, the compiler's limits. The gateway watches job deadlines.
Shutdown
    SIGTERM or SIGINT: sandboxes drain and the pool exits 0 when they have, or after the grace, when it kills
    them; a second signal kills them at once. If the pool itself is killed, its sandboxes die with it.

The gateway may come and go: the pool says Hello until it is there, and sandboxes wait or are replaced.
"""

from __future__ import annotations

import logging
import os
import pwd
import random
import secrets
import signal
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import zmq

from panels_shared.messages import (
    Exited,
    Heartbeat,
    Hello,
    PoolId,
    Prepare,
    Prepared,
    ToGateway,
    ToWorker,
    WorkerId,
)
from panels_shared.wire import encode
from panels_worker.artifacts import ArtifactStore
from panels_worker.bus import link
from panels_worker.bus.peer import Peer
from panels_worker.compiling.compiler import Compiler
from panels_worker.confinement.seccomp import build_filter
from panels_worker.pool.child import Child
from panels_worker.pool.supervisor import Announce, Finish, Instruction, Kill, Spawn, Supervisor, Terminate
from panels_worker.settings import ConfigError, PoolConfig, SandboxConfig
from panels_worker.status import Exit
from panels_worker.versions import versions

logger = logging.getLogger(__name__)

#: The longest sleep, in seconds.
MAX_WAIT_S: Final = 0.5
#: Frames read in one turn.
MAX_READS: Final = 64
#: Messages that wait for a connection; above it the oldest are dropped: the gateway that missed them knows from
#: silence, or is another one by then.
MAX_UNSENT: Final = 4_096


class Pool:
    """The state of the pool process. ``run`` is its life. Raises ``ConfigError``, ``OSError`` when it cannot start."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._id = PoolId(os.urandom(16))
        self._user = _user(config)
        self._filter = _filter(config)
        self._store = ArtifactStore.create(config.cache_dir)
        _let_in(config.cache_dir, self._user[1])
        self._compiler = Compiler(self._store)
        self._compiler.warm(time.monotonic())
        self._supervisor = Supervisor(
            config.processes,
            new_id=lambda: WorkerId(secrets.token_bytes(16)),
            chance=random.random,
            bounds=config.bounds,
        )
        self._children: dict[WorkerId, Child] = {}
        self._by_fd: dict[int, Child] = {}
        self._unsent: list[ToGateway] = []
        self._code: int | None = None
        self._next_beat_s = 0.0
        self._compiling: set[int] = set()
        hello = Hello(role="pool", pool=self._id, pid=os.getpid(), versions=versions())
        self._peer = Peer(hello, now_s=time.monotonic(), drainable=False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._socket = link.connect(self._context, config.gateway, self._id, config.curve)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._signals = 0
        self._wakeup_fd, self._write_fd = os.pipe()
        for fd in (self._wakeup_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._poller.register(self._wakeup_fd, zmq.POLLIN)

    def run(self) -> int:
        """Runs until it is told to stop, and has; returns the exit code."""
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        logger.info("%d sandboxes for %s", self._config.processes, self._config.gateway)
        try:
            self._compiler.warm(time.monotonic())
            self._carry_out(self._supervisor.start(time.monotonic()))
            while self._code is None:
                self._turn()
        finally:
            self._shutdown()
        return self._code

    def _signalled(self, *_: object) -> None:
        self._signals += 1

    def _turn(self) -> None:
        """Waits for something to happen, and does what follows from it."""
        ready = self._sleep()
        now_s = time.monotonic()
        if self._signals:
            self._signals = 0
            logger.info("stopping")
            self._carry_out(self._supervisor.stop(now_s))
        self._read(now_s)
        for fd in ready:
            self._look_at(fd, now_s)
        self._carry_out(self._supervisor.tick(now_s))
        for digest, refusal in self._compiler.collect(now_s):
            self._unsent.append(Prepared(digest, refusal))
        self._watch_compiler()
        self._say(now_s)

    # -- what the gateway says, and is told -----------------------------------------------------------------

    def _read(self, now_s: float) -> None:
        for _ in range(MAX_READS):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            messages = self._peer.feed(frame, now_s)
            if self._peer.take_reset():
                self._unsent.clear()  # meant for a gateway that is gone
            self._take(messages, now_s)

    def _take(self, messages: Sequence[ToWorker], now_s: float) -> None:
        for message in messages:
            if isinstance(message, Prepare):
                self._compiler.submit(message, now_s)
            else:
                logger.warning("expected Prepare from the gateway, got %s", type(message).__name__)

    def _say(self, now_s: float) -> None:
        peer = self._peer
        if not self._unsent:  # else a Hello would only queue behind it
            peer.tick(now_s)
        self._unsent += peer.drain()
        if peer.session is not None and now_s >= self._next_beat_s:
            self._next_beat_s = now_s + peer.heartbeat_s
            self._unsent.append(Heartbeat(self._id, 0))
        if self._unsent:
            try:
                self._socket.send(encode(self._unsent[:MAX_UNSENT]), zmq.NOBLOCK)
            except zmq.Again:
                del self._unsent[:-MAX_UNSENT]
            else:
                del self._unsent[:MAX_UNSENT]
        if peer.hopeless:
            logger.error("the gateway at %s does not speak our protocol", self._config.gateway)
            self._code = Exit.PROTOCOL

    # -- sandboxes --------------------------------------------------------------------------------------------

    def _carry_out(self, todo: Iterable[Instruction]) -> None:
        for step in todo:
            if isinstance(step, Spawn):
                self._spawn(step.worker)
            elif isinstance(step, Announce):
                self._unsent.append(Exited(step.worker))
            elif isinstance(step, Finish):
                self._code = step.code
            elif child := self._children.get(step.worker):
                if isinstance(step, Terminate):
                    child.send_signal(signal.SIGTERM)
                elif isinstance(step, Kill):
                    logger.warning("killing sandbox %d: %s", child.pid, step.why)
                    child.send_signal(signal.SIGKILL)

    def _spawn(self, worker: WorkerId) -> None:
        try:
            child = Child(worker, msgspec.msgpack.encode(self._tell(worker)))
        except OSError as exc:
            logger.error("a sandbox could not be started: %s", exc.strerror)
            self._carry_out(self._supervisor.exited(worker, Exit.DEFECT, time.monotonic()))
            return
        logger.debug("sandbox %d started", child.pid)
        self._children[worker] = child
        for fd in (child.pidfd, child.reports_fd, child.log_fd):
            self._by_fd[fd] = child
            self._poller.register(fd, zmq.POLLIN)

    def _tell(self, worker: WorkerId) -> SandboxConfig:
        config = self._config
        uid, gid = self._user
        return SandboxConfig(
            endpoint=config.gateway,
            worker=worker,
            pool=self._id,
            parent_pid=os.getpid(),
            cache_dir=str(config.cache_dir),
            artifact_key=self._store.key,
            curve=config.curve,
            confinement=config.confinement,
            seccomp_filter=self._filter,
            uid=uid,
            gid=gid,
            spin_us=config.spin_us,
            replica_bytes=config.replica_bytes,
            max_programs=config.max_programs,
            data_bytes=config.data_bytes,
            log_level=config.log_level,
        )

    def _look_at(self, fd: int, now_s: float) -> None:
        child = self._by_fd.get(fd)
        if child is None:
            return
        if fd == child.pidfd:
            self._bury(child, now_s)
        elif fd == child.log_fd:
            child.read_log()
        elif (report := child.read_report()) is not None:
            self._carry_out(self._supervisor.reported(child.worker, report, child.rss_bytes(), now_s))

    def _bury(self, child: Child, now_s: float) -> None:
        for fd in (child.pidfd, child.reports_fd, child.log_fd):
            del self._by_fd[fd]
            self._poller.unregister(fd)
        code = child.reap()
        del self._children[child.worker]
        level = logging.INFO if code in (Exit.OK, Exit.LOST) else logging.WARNING
        logger.log(level, "sandbox %d ended: %s", child.pid, describe(code))
        self._carry_out(self._supervisor.exited(child.worker, code, now_s))

    # -- waiting and ending -----------------------------------------------------------------------------------

    def _sleep(self) -> list[int]:
        """The descriptors that something has happened to."""
        times = [self._supervisor.deadline_s, self._compiler.next_deadline()]
        if not self._unsent:
            times.append(self._peer.deadline_s)
        if self._peer.session is not None:
            times.append(self._next_beat_s)
        due_s = min((at_s for at_s in times if at_s is not None), default=0.0)
        wait_s = max(0.0, min(MAX_WAIT_S, due_s - time.monotonic()))
        self._poller.register(self._socket, zmq.POLLIN | zmq.POLLOUT if self._unsent else zmq.POLLIN)
        ready = [what for what, _ in self._poller.poll(int(wait_s * 1000) + 1) if isinstance(what, int)]
        if self._wakeup_fd in ready:
            os.read(self._wakeup_fd, 4_096)
        return ready

    def _watch_compiler(self) -> None:
        wanted = set(self._compiler.filenos())
        for fd in self._compiling - wanted:
            self._poller.unregister(fd)
        for fd in wanted - self._compiling:
            self._poller.register(fd, zmq.POLLIN)
        self._compiling = wanted

    def _shutdown(self) -> None:
        """Ends what is left, however the loop ended. In order, and bounded."""
        self._compiler.close()
        for child in self._children.values():
            child.send_signal(signal.SIGKILL)
            child.reap()
            self._unsent.append(Exited(child.worker))
        self._peer.depart()
        self._unsent += self._peer.drain()
        try:
            self._socket.send(encode(self._unsent[-MAX_UNSENT:]), zmq.NOBLOCK)
        except zmq.Again:
            pass
        signal.set_wakeup_fd(-1)
        link.close(self._socket, self._context)


def describe(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"signal {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
    return f"exit code {code} ({Exit(code).name})" if code in set(Exit) else f"exit code {code}"


def _filter(config: PoolConfig) -> bytes | None:
    """The system call filter for all sandboxes, None for none."""
    if config.confinement == "off":
        return None
    try:
        return build_filter()
    except OSError as exc:
        logger.warning("no system call filter: %s", exc.strerror)
        return None


def _let_in(folder: Path, gid: int) -> None:
    """Lets sandboxes of another user open artifacts in ``folder``, but not list it. -1: they are of the same user."""
    mode = folder.stat().st_mode
    if gid >= 0 and not mode & stat.S_IXOTH:
        os.chown(folder, -1, gid)
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXGRP)


def _user(config: PoolConfig) -> tuple[int, int]:
    """Whom sandboxes become: (uid, gid), (-1, -1) to stay who they are."""
    if os.geteuid() != 0 or config.confinement == "off":
        return -1, -1
    try:
        entry = pwd.getpwuid(int(config.user)) if config.user.isdecimal() else pwd.getpwnam(config.user)
    except (KeyError, OverflowError):
        if config.user.isdecimal() and 0 < int(config.user) < 2**31:
            return int(config.user), int(config.user)
        raise ConfigError(
            f"user: expected a user of this system, got {config.user[:40]!r}; give --user"
        ) from None
    if entry.pw_uid == 0:
        raise ConfigError("user: expected one that is not root, got root; give another --user")
    return entry.pw_uid, entry.pw_gid
