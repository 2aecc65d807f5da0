"""Keeps N sandbox processes alive: decides what to do, and the pool does it. Pure.

Each slot holds one process. A process goes through

    STARTING ──reports READY──▶ READY ──worn──▶ RETIRING ──successor READY──▶ DRAINING ──▶ (exited)
        └───────────────────────────┴── silent, hung ──▶ KILLED ──▶ (exited)   ◀── grace over ──┘

A process is worn when it has grown too large or has run enough jobs. It goes on serving until its successor
is ready. Only one is retired at a time, so that capacity never dips by more than one process.

It does not protect against a process that lies in its reports; see ``status``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from panels_shared.messages import WorkerId
from panels_shared.restart import RestartPolicy, Restarts
from panels_worker.settings import Bounds
from panels_worker.status import Exit, Report, State


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
    _finished: bool = False

    @property
    def workers(self) -> list[WorkerId]:
        """The processes there are."""
        return list(self._children)

    @property
    def deadline_s(self) -> float | None:
        """When ``tick`` wants to be called next; None for never."""
        times = [slot.start_s for slot in self._slots if slot.start_s is not None]
        for child in self._children.values():
            if child.due_s is not None:
                times.append(child.due_s)
            if child.stage is not Stage.KILLED:
                times.append(child.heard_s + self.bounds.silence_s)
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
                if child.stage is Stage.RETIRING:
                    todo.append(self._terminate(child, now_s))
                else:
                    todo.append(self._kill(child, f"not finished {self.bounds.grace_s:g} s after SIGTERM"))
        return todo

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
            self._ever_ready = True
            todo += [self._terminate(old, now_s) for old in self._retiring(child.slot)]
        worn = rss_bytes > self.bounds.max_rss_bytes or report.jobs_done > self.bounds.max_jobs
        if worn and child.stage is Stage.READY and not self.stopping and not self._any_retiring():
            child.stage = Stage.RETIRING
            child.due_s = now_s + self.bounds.handover_s
            todo.append(self._spawn(child.slot, now_s))
        return todo

    def exited(self, worker: WorkerId, code: int, now_s: float) -> list[Instruction]:
        """``worker`` has ended with ``code`` (negative: a signal), or could not be started."""
        child = self._children.pop(worker, None)
        if child is None:
            return []
        todo: list[Instruction] = [Announce(worker)]
        if code == Exit.BOOT and not self._ever_ready:
            self._boot_failures += 1
            if self._boot_failures >= self.bounds.boot_tries and not self.stopping:
                return [*todo, *self._finish(Exit.BOOT)]
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
        child = Child(self.new_id(), slot, started_s=now_s, heard_s=now_s)
        self._children[child.worker] = child
        slot.current = child
        slot.start_s = None
        return Spawn(child.worker)

    def _terminate(self, child: Child, now_s: float) -> Terminate:
        child.stage = Stage.DRAINING
        child.due_s = now_s + self.bounds.grace_s
        return Terminate(child.worker)

    def _kill(self, child: Child, why: str) -> Kill:
        child.stage = Stage.KILLED
        child.due_s = None
        return Kill(child.worker, why)

    def _finish(self, code: Exit) -> list[Instruction]:
        self.stopping = True
        if self._finished:
            return []
        self._finished = True
        kills: list[Instruction] = [self._kill(c, "the pool ends") for c in self._children.values()]
        return [*kills, Finish(code)]

    def _retiring(self, slot: Slot) -> list[Child]:
        return [c for c in self._children.values() if c.slot is slot and c.stage is Stage.RETIRING]

    def _any_retiring(self) -> bool:
        return any(c.stage is Stage.RETIRING for c in self._children.values())
