"""Keeps N sandbox processes alive: decides what to do, and the pool does it. Pure.

Each slot holds one process. A process goes through

    STARTING ──reports READY──▶ READY ──worn──▶ RETIRING ──successor READY──▶ DRAINING ──▶ (exited)
        └───────────────────────────┴── silent, hung ──▶ KILLED ──▶ (exited)   ◀── grace over ──┘

A process is worn when it has grown too large, has run enough jobs, is old enough, or was there when
``replace`` was called. It goes on serving until its successor is ready, however long that takes; only one
that is too large is drained without a successor, after a while and while all others serve. One process is
replaced at a time: the next one's turn comes when the one before has ended. So capacity never dips by more
than one process, and memory never grows by more than one.

How many jobs a process runs and how old it becomes are shortened at random, so that processes that were
started together do not wear out together.

Processes that end again and again before any was ready are a crash loop, which ends the pool while nothing of
it serves. Those that were ready do not count, because a hostile guest could have ended them, and must not be
able to end the pool.

It does not protect against a process that lies in its reports; see ``status``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from panels_shared.messages import WorkerId
from panels_shared.restart import RestartPolicy, Restarts
from panels_worker.settings import Bounds
from panels_worker.status import Exit, Report, State

#: Exit codes of processes that did what they were told, or could do nothing else.
_BLAMELESS: Final = (Exit.OK, Exit.LOST)


class Stage(Enum):
    """Where a process stands; the module's drawing has the transitions."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    DRAINING = "draining"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a sandbox process under this id."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send it SIGTERM: it finishes what it has and exits."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Kill:
    """Send it SIGKILL. ``why`` is for the log."""

    worker: WorkerId
    why: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the gateway that it has ended."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class Finish:
    """All processes are gone, or cannot start: end the pool with this exit code."""

    code: int


Instruction = Spawn | Terminate | Kill | Announce | Finish


@dataclass(slots=True)
class Child:
    """A process as the supervisor sees it. ``due_s`` is when its stage times out, None for never."""

    worker: WorkerId
    slot: Slot
    started_s: float
    heard_s: float
    stage: Stage = Stage.STARTING
    due_s: float | None = None
    #: When it is old enough, and after how many jobs it has run enough; infinity for never.
    worn_s: float = math.inf
    worn_jobs: float = math.inf
    too_large: bool = False
    worn: bool = False
    served: bool = False


@dataclass(slots=True)
class Slot:
    """Room for one process. ``start_s`` is when the next is to be started, None while there is one."""

    restarts: Restarts
    current: Child | None = None
    start_s: float | None = None


@dataclass(slots=True)
class Supervisor:
    """The state of a pool of ``processes`` sandboxes.

    ``new_id`` makes an id that nobody can guess; ``chance`` a random number from 0 to 1. The owner carries
    out what the methods return, in order, and calls ``tick`` by ``deadline_s`` at the latest.
    """

    processes: int
    new_id: Callable[[], WorkerId]
    chance: Callable[[], float]
    bounds: Bounds = field(default_factory=Bounds)
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    stopping: bool = False
    _slots: list[Slot] = field(default_factory=list)
    _children: dict[WorkerId, Child] = field(default_factory=dict)
    _ever_ready: bool = False
    _boot_failures: int = 0
    _unready_ends: int = 0
    _finished: bool = False
    #: How many were started, ended without having been told to, and were killed, since the pool began.
    started: int = 0
    crashed: int = 0
    killed: int = 0

    @property
    def workers(self) -> list[WorkerId]:
        """The processes there are."""
        return list(self._children)

    @property
    def ready(self) -> int:
        """How many slots have a process that serves."""
        return sum(map(self._serves, self._slots))

    @property
    def deadline_s(self) -> float | None:
        """When ``tick`` wants to be called next; None for never."""
        times = [slot.start_s for slot in self._slots if slot.start_s is not None]
        for child in self._children.values():
            if child.due_s is not None:
                times.append(child.due_s)
            if child.stage is not Stage.KILLED:
                times.append(child.heard_s + self.bounds.silence_s)
            if child.stage is Stage.READY and child.worn_s < math.inf and self._may_replace():
                times.append(child.worn_s)
        return min(times, default=None)

    def start(self, now_s: float) -> list[Instruction]:
        """Starts all processes. Call it once, first."""
        self._slots = [Slot(Restarts(self.policy), start_s=now_s) for _ in range(self.processes)]
        return self.tick(now_s)

    def tick(self, now_s: float) -> list[Instruction]:
        """Does what has become due."""
        todo: list[Instruction] = [
            self._spawn(slot, now_s)
            for slot in self._slots
            if slot.start_s is not None and now_s >= slot.start_s
        ]
        for child in self._children.values():
            if child.stage is Stage.KILLED:
                continue
            if now_s >= child.heard_s + self.bounds.silence_s:
                todo.append(self._kill(child, f"silent for {self.bounds.silence_s:g} s"))
            elif child.due_s is not None and now_s >= child.due_s:
                if child.stage is not Stage.RETIRING:
                    todo.append(self._kill(child, f"not finished {self.bounds.grace_s:g} s after SIGTERM"))
                elif child.too_large and self._others_serve(child.slot):
                    todo.append(self._terminate(child, now_s))
                else:
                    child.due_s = now_s + self.bounds.handover_s
        return [*todo, *self._retire_next(now_s)]

    def replace(self, now_s: float) -> list[Instruction]:
        """Replaces all processes that there are now, one by one, as the module's docstring says."""
        for child in self._children.values():
            child.worn = True
        return self._retire_next(now_s)

    def reported(self, worker: WorkerId, report: Report, rss_bytes: int, now_s: float) -> list[Instruction]:
        """``worker`` said ``report``; ``rss_bytes`` is what the pool measured, 0 where it could not."""
        child = self._children.get(worker)
        if child is None or child.stage is Stage.KILLED:
            return []
        child.heard_s = now_s
        if report.busy_ms > self.bounds.max_busy_s * 1000:
            return [self._kill(child, f"one job ran for more than {self.bounds.max_busy_s:g} s")]
        todo: list[Instruction] = []
        if child.stage is Stage.STARTING and report.state is State.READY:
            child.stage = Stage.READY
            child.served = self._ever_ready = True
            self._unready_ends = 0
            todo += [self._terminate(old, now_s) for old in self._retiring(child.slot)]
        child.too_large = rss_bytes > self.bounds.max_rss_bytes
        child.worn = child.worn or child.too_large or report.jobs_done > child.worn_jobs
        return [*todo, *self._retire_next(now_s)]

    def hangs(self, worker: WorkerId) -> list[Instruction]:
        """The gateway says that ``worker``, which may live, does not answer: nothing of it is to be saved."""
        child = self._children.get(worker)
        if child is None or child.stage is Stage.KILLED:
            return []
        return [self._kill(child, "the gateway waits in vain for the end of its run")]

    def exited(self, worker: WorkerId, code: int, now_s: float) -> list[Instruction]:
        """``worker`` has ended with ``code`` (negative: a signal), or could not be started."""
        child = self._children.pop(worker, None)
        if child is None:
            return []
        todo: list[Instruction] = [Announce(worker)]
        if code not in _BLAMELESS and child.stage is not Stage.KILLED:
            self.crashed += 1
        if code == Exit.BOOT and not self._ever_ready:
            self._boot_failures += 1
            if self._boot_failures >= self.bounds.boot_tries and not self.stopping:
                return [*todo, *self._finish(Exit.BOOT)]
        # one that was told to go, or has lost its gateway, says nothing of those that come after it
        if child.stage in (Stage.STARTING, Stage.KILLED) and not child.served and code not in _BLAMELESS:
            self._unready_ends += 1
            looping = self._unready_ends >= self.bounds.crash_tries and not self.ready
            if looping and not self.stopping:
                return [*todo, *self._finish(Exit.CRASH_LOOP)]
        slot = child.slot
        if slot.current is child:
            slot.current = None
            if not self.stopping:
                lived_s = now_s - child.started_s
                slot.start_s = slot.restarts.next_start_s(now_s, lived_s=lived_s, chance=self.chance())
        if self.stopping and not self._children:
            return [*todo, *self._finish(Exit.OK)]
        return [*todo, *self.tick(now_s)]

    def stop(self, now_s: float) -> list[Instruction]:
        """Drains all processes and starts no more; when called again, kills them. ``Finish`` comes at the
        end.
        """
        if self.stopping:
            return [
                self._kill(child, "asked twice to stop")
                for child in self._children.values()
                if child.stage is not Stage.KILLED
            ]
        self.stopping = True
        for slot in self._slots:
            slot.start_s = None
        if not self._children:
            return self._finish(Exit.OK)
        going = (Stage.DRAINING, Stage.KILLED)
        return [self._terminate(c, now_s) for c in self._children.values() if c.stage not in going]

    def _spawn(self, slot: Slot, now_s: float) -> Spawn:
        self.started += 1
        bounds = self.bounds
        share = 1.0 - bounds.jitter * self.chance()
        child = Child(
            self.new_id(),
            slot,
            started_s=now_s,
            heard_s=now_s,
            worn_s=now_s + (bounds.max_age_s * share or math.inf),
            worn_jobs=bounds.max_jobs * share,
        )
        self._children[child.worker] = child
        slot.current = child
        slot.start_s = None
        return Spawn(child.worker)

    def _terminate(self, child: Child, now_s: float) -> Terminate:
        child.stage = Stage.DRAINING
        child.due_s = now_s + self.bounds.grace_s
        return Terminate(child.worker)

    def _kill(self, child: Child, why: str) -> Kill:
        self.killed += 1
        child.stage = Stage.KILLED
        child.due_s = None
        return Kill(child.worker, why)

    def _finish(self, code: Exit) -> list[Instruction]:
        self.stopping = True
        for slot in self._slots:
            slot.start_s = None
        if self._finished:
            return []
        self._finished = True
        kills: list[Instruction] = [self._kill(c, "the pool ends") for c in self._children.values()]
        return [*kills, Finish(code)]

    def _retiring(self, slot: Slot) -> list[Child]:
        return [c for c in self._children.values() if c.slot is slot and c.stage is Stage.RETIRING]

    def _may_replace(self) -> bool:
        """Whether no process is being replaced: each is the only one of its slot."""
        return not self.stopping and all(child.slot.current is child for child in self._children.values())

    def _retire_next(self, now_s: float) -> list[Instruction]:
        if not self._may_replace():
            return []
        for child in self._children.values():
            if child.stage is Stage.READY and (child.worn or now_s >= child.worn_s):
                child.stage = Stage.RETIRING
                child.due_s = now_s + self.bounds.handover_s
                return [self._spawn(child.slot, now_s)]
        return []

    def _serves(self, slot: Slot) -> bool:
        if slot.current is not None and slot.current.stage is Stage.READY:
            return True
        return bool(self._retiring(slot))

    def _others_serve(self, slot: Slot) -> bool:
        return all(other is slot or self._serves(other) for other in self._slots)
