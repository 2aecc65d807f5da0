"""The pool: a supervisor process that prepares handlers and keeps sandbox processes alive.

Processes
    There is one pool. It starts ``processes`` sandboxes by command line, and at most a few compile children
    at a time, each of which ends with its handler. The pool runs no guest code and loads no artifact into an
    engine.
Threads
    One, in a poll loop. ZeroMQ has two of its own.
Heartbeat
    The pool sends its own. Each sandbox sends its own too, and also reports to the pool (``status``).
Timeouts
    The supervisor's bounds and the compiler's limits apply here. The gateway watches the deadlines of jobs.
Disk
    The pool keeps the folder of compiled handlers within its bound: it trims at the start and after
    preparations, but never removes the script engines or what it has just prepared.
Shutdown
    On SIGTERM or SIGINT the sandboxes drain. The pool exits 0 when they have ended, or kills them after the
    grace; a second signal kills them at once. If the pool itself is killed, its sandboxes die with it.
Replacement
    On SIGHUP all sandboxes are replaced, one by one, each when its successor is ready.

The gateway may come and go: the pool says Hello until it is there, and sandboxes wait or are replaced.

The pool proves who it is by the bus key, which it reads again before each Hello: the gateway makes the file,
perhaps later than the pool starts, and perhaps another one after a restart. Sandboxes are started once there
is a key, because each is given a ticket that is made with it; those with tickets of an older key are
replaced.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import zmq

from panels_shared.buskey import pool_proof, sandbox_ticket
from panels_shared.errors import ConfigError
from panels_shared.messages import Exited, Hello, PoolId, PoolReport, Prepare, Prepared, Replace, WorkerId
from panels_shared.notices import READY, STOPPING, Notices
from panels_worker.artifacts import ArtifactStore
from panels_worker.bus.keyfile import read_bus_key
from panels_worker.compiling.child import Jail
from panels_worker.compiling.compiler import Compiler
from panels_worker.pool.child import COMMAND, Child
from panels_worker.pool.conversation import Conversation
from panels_worker.pool.notifier import Notifier
from panels_worker.pool.privileges import admit_group, sandbox_user, system_call_filter
from panels_worker.pool.supervisor import Announce, Finish, Instruction, Kill, Spawn, Supervisor, Terminate
from panels_worker.settings import PoolConfig, SandboxConfig
from panels_worker.status import Exit, describe
from panels_worker.title import set_title
from panels_worker.versions import versions

logger = logging.getLogger("panels.worker.pool")

#: The longest sleep, in seconds.
MAX_WAIT_S: Final = 0.5


class Pool:
    """The state of the pool process; ``run`` is its life, and is called once.

    Raises ``ConfigError`` for a user that sandboxes cannot become, and ``OSError`` for a cache that cannot be
    written.
    """

    def __init__(self, config: PoolConfig) -> None:
        now_s = time.monotonic()
        if config.cpus:  # before there is any thread or process that would not take it over
            os.sched_setaffinity(0, config.cpus)
        self._config = config
        self._id = PoolId(os.urandom(16))
        self._user = sandbox_user(config)
        self._filter = system_call_filter(config)
        self._store = ArtifactStore.create(config.cache_dir)
        admit_group(config.cache_dir, self._user[1])
        uid, gid = self._user
        self._compiler = Compiler(self._store, jail=Jail(config.confinement, uid, gid))
        self._trim()
        self._supervisor = Supervisor(
            config.processes,
            new_id=lambda: WorkerId(secrets.token_bytes(16)),
            chance=random.random,
            bounds=config.bounds,
        )
        self._children: dict[WorkerId, Child] = {}
        self._by_fd: dict[int, Child] = {}
        self._code: int | None = None
        self._compiling: set[int] = set()
        #: CPU time of sandboxes that have ended, as it was measured last.
        self._buried_ms = 0
        self._key: bytes | None = None
        self._key_problem = ""
        self._conversation = Conversation(
            config.gateway,
            config.curve,
            pool=self._id,
            hello=self._hello,
            report=self._report,
            now_s=now_s,
        )
        self._poller = zmq.Poller()
        self._signals = 0
        self._hangups = 0
        self._title = ""
        self._notifier = Notifier(Notices.take(os.environ, pid=os.getpid()))
        self._wakeup_fd, self._write_fd = os.pipe()
        for fd in (self._wakeup_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._poller.register(self._wakeup_fd, zmq.POLLIN)
        self._poller.register(self._conversation.watch, zmq.POLLIN)

    def run(self) -> int:
        """Runs until it is told to stop, and has stopped; returns the exit code."""
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, self._hung_up)
        logger.info("%d sandboxes for %s", self._config.processes, self._config.gateway)
        try:
            self._compiler.warm(time.monotonic())
            # not once sandboxes are there: they need a gateway, which may be started after the pool
            self._notifier.say(READY)
            while self._code is None:
                self._turn()
        finally:
            self._shutdown()
        return self._code

    def _signalled(self, *_: object) -> None:
        self._signals += 1

    def _hung_up(self, *_: object) -> None:
        self._hangups += 1

    def _turn(self) -> None:
        """Waits for something to happen, and does what follows from it."""
        ready = self._sleep()
        now_s = time.monotonic()
        if self._signals:
            self._signals = 0
            logger.info("stopping")
            self._notifier.say(STOPPING)
            self._carry_out(self._supervisor.stop(now_s))
        if self._hangups:
            self._hangups = 0
            logger.info("replacing all sandboxes, one by one")
            self._carry_out(self._supervisor.replace(now_s))
        for wish in self._conversation.read(now_s):
            if isinstance(wish, Prepare):
                self._compiler.submit(wish, now_s)
            elif isinstance(wish, Replace):
                self._carry_out(self._supervisor.hangs(WorkerId(wish.worker)))
            else:
                self._compiler.abandon(wish.digest)
        for fd in ready:
            self._look_at(fd, now_s)
        self._carry_out(self._supervisor.tick(now_s))
        self._collect(now_s)
        self._watch_compiler()
        self._show()
        self._notifier.beat(now_s)
        self._conversation.say(now_s)
        if self._conversation.hopeless:
            logger.error("the gateway at %s does not speak our protocol", self._config.gateway)
            self._code = Exit.PROTOCOL
        elif self._conversation.refused:
            logger.error(
                "the gateway at %s refuses this pool's CURVE key; add its public key to the gateway's "
                "curve-worker-keys-file, and start the gateway and the pool again",
                self._config.gateway,
            )
            self._code = Exit.BOOT

    def _show(self) -> None:
        """Says in the process's title how many sandboxes serve."""
        title = f"pool {self._supervisor.ready}/{self._config.processes} up"
        if title != self._title:
            self._title = title
            set_title(title)
            self._notifier.say(f"STATUS={title}".encode())

    # -- who we are ----------------------------------------------------------------------------------

    def _hello(self) -> Hello | None:
        """What to say to a gateway that has not welcomed us; None without a key."""
        try:
            key = read_bus_key(self._config)
        except ConfigError as exc:
            if str(exc) != self._key_problem:  # not every second
                self._key_problem = str(exc)
                logger.warning("waiting for a bus key: %s", exc)
            return None
        self._key_problem = ""
        if key != self._key:
            before, self._key = self._key, key
            self._tickets_changed(first=before is None)
        return Hello(
            role="pool",
            pool=self._id,
            pid=os.getpid(),
            versions=versions(),
            credential=pool_proof(key, self._id),
            labels=self._config.labels,
            replaces=True,
        )

    def _report(self) -> PoolReport:
        """What the gateway's metrics show of this pool: measured here, since a sandbox could lie."""
        supervisor, children = self._supervisor, self._children.values()
        return PoolReport(
            processes=self._config.processes,
            ready=supervisor.ready,
            rss_bytes=sum(child.rss_bytes() for child in children),
            started=supervisor.started,
            crashed=supervisor.crashed,
            killed=supervisor.killed,
            cpu_ms=self._buried_ms + sum(child.cpu_ms() for child in children),
        )

    def _tickets_changed(self, *, first: bool) -> None:
        if self._supervisor.stopping:
            return
        if first:
            self._carry_out(self._supervisor.start(time.monotonic()))
            return
        logger.info("the bus key has changed: replacing all sandboxes")
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)

    # -- preparing handlers --------------------------------------------------------------------------

    def _collect(self, now_s: float) -> None:
        """Tells the gateway what was prepared or refused, once there is room on disk for it."""
        answers = self._compiler.collect(now_s)
        if answers:
            self._trim(*(digest for digest, refusal in answers if refusal is None))
            self._conversation.queue(
                Prepared(digest, refusal, self._compiler.take_cost_ms(digest)) for digest, refusal in answers
            )

    def _trim(self, *prepared: bytes) -> None:
        try:
            self._store.trim(keep=self._compiler.pinned.union(prepared))
        except OSError as exc:
            logger.error("the folder of compiled handlers could not be trimmed: %s", exc.strerror)

    def _watch_compiler(self) -> None:
        wanted = set(self._compiler.filenos())
        for fd in self._compiling - wanted:
            self._poller.unregister(fd)
        for fd in wanted - self._compiling:
            self._poller.register(fd, zmq.POLLIN)
        self._compiling = wanted

    # -- sandboxes -----------------------------------------------------------------------------------

    def _carry_out(self, todo: Iterable[Instruction]) -> None:
        for step in todo:
            if isinstance(step, Spawn):
                self._spawn(step.worker)
            elif isinstance(step, Announce):
                self._conversation.queue([Exited(step.worker)])
            elif isinstance(step, Finish):
                self._code = step.code
                if step.code == Exit.CRASH_LOOP:
                    logger.critical(
                        "sandboxes end again and again before they are ready, and none serves: the pool ends"
                    )
            elif child := self._children.get(step.worker):
                if isinstance(step, Terminate):
                    child.send_signal(signal.SIGTERM)
                elif isinstance(step, Kill):
                    logger.warning("killing sandbox %d: %s", child.pid, step.why)
                    child.send_signal(signal.SIGKILL)

    def _spawn(self, worker: WorkerId) -> None:
        try:
            command = self._config.sandbox_command or COMMAND
            child = Child(worker, msgspec.msgpack.encode(self._tell(worker)), command=command)
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
        assert self._key is not None, "sandboxes are started once there is a key"
        uid, gid = self._user
        return SandboxConfig(
            endpoint=config.gateway,
            worker=worker,
            pool=self._id,
            ticket=sandbox_ticket(self._key, worker, self._id),
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
            nice=config.nice,
            log_level=config.log_level,
            verify_replay=config.verify_replay,
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
        self._buried_ms += child.cpu_ms()  # as long as nobody has taken its end
        code = child.reap()
        del self._children[child.worker]
        level = logging.INFO if code in (Exit.OK, Exit.LOST) else logging.WARNING
        logger.log(level, "sandbox %d ended: %s", child.pid, describe(code))
        self._carry_out(self._supervisor.exited(child.worker, code, now_s))

    # -- waiting and ending --------------------------------------------------------------------------

    def _sleep(self) -> list[int]:
        """The descriptors that something has happened to."""
        times = [
            self._supervisor.deadline_s,
            self._compiler.next_deadline(),
            self._conversation.deadline_s,
            self._notifier.deadline_s,
        ]
        due_s = min((at_s for at_s in times if at_s is not None), default=0.0)
        wait_s = max(0.0, min(MAX_WAIT_S, due_s - time.monotonic()))
        self._poller.register(self._conversation.socket, self._conversation.wanted_events)
        ready = [what for what, _ in self._poller.poll(int(wait_s * 1000) + 1) if isinstance(what, int)]
        if self._wakeup_fd in ready:
            os.read(self._wakeup_fd, 4_096)
        return ready

    def _shutdown(self) -> None:
        """Ends what is left, however the loop ended. In order, and bounded."""
        self._compiler.close()
        for child in self._children.values():
            child.send_signal(signal.SIGKILL)
            child.reap()
            self._conversation.queue([Exited(child.worker)])
        signal.set_wakeup_fd(-1)
        self._conversation.close()
        for fd in (self._wakeup_fd, self._write_fd):
            os.close(fd)
