"""A world without sockets and clocks around a dispatcher: workers that run real sandboxes, messages that take
their time.

Everything happens when the caller says so: a message travels, a worker runs one message, time passes, a
process dies. Beside every panel goes a trivial serial model: a dict and the function that the handler is.
Each commit is compared with it, and so is how often and in which order triggers are answered. ``check`` and
the methods raise ``AssertionError`` at the first difference.

The real ones here: ``Dispatcher``, ``Panel``, ``Sandbox`` with its replicas. Stood in for: the broker, the
kernel (who commits and answers), the worker's loop (session, draining), and WebAssembly.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec

from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.dispatch.fleet import MAX_CREDIT, Run
from panels_gateway.dispatch.limits import DispatchLimits, OverloadedError
from panels_gateway.panels.panel import CommitRefusedError, Mutation, Panel, StateLimits
from panels_gateway.panels.trigger import Answer, Progress, Trigger
from panels_shared import messages as m
from panels_shared.limits import Limits
from panels_shared.outcome import Completed, Failed, Outcome, Reason, Usage
from panels_worker.guest.task import Execution, Task
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.sandbox import Sandbox
from tests.support.programs import FakeLoader

State = dict[str, bytes]
Changes = Mapping[str, bytes | None]

HEARTBEAT_S: Final = 0.5
#: Small enough for commits to be refused now and then.
STATE_LIMITS: Final = StateLimits(bytes=700, keys=6)
#: Small enough for a worker to forget replicas of panels that it ran.
REPLICA_BYTES: Final = 2_500
_LIMITS: Final = Limits()
_FIELDS: Final = cast(
    tuple[int, int, int, int, int, int, int],
    tuple(getattr(_LIMITS, name) for name in Limits.__dataclass_fields__),
)
_mutations: Final = msgspec.json.Decoder(list[Mutation])


def handle(state: Mapping[str, bytes], args: Any) -> tuple[Changes, bytes]:
    """What every handler here does: changes, and what it returns. Raises ``ValueError`` where it fails.

    The result depends on the order of all jobs before it: each folds itself into a hash.
    """
    kind, number = args
    before = json.loads(state.get("hash", b'""'))
    after = hashlib.sha256(f"{before}{kind}{number}".encode()).hexdigest()[:16]
    returned = json.dumps([before, after]).encode()
    if kind == "read":
        return {}, returned
    if kind == "fail":
        raise ValueError(f"failed after {before}")
    changes: dict[str, bytes | None] = {"hash": json.dumps(after).encode()}
    if kind == "grow":
        changes[f"k{number % 9}"] = json.dumps("x" * (number % 5 * 100)).encode()
    elif kind == "shrink":
        changes.update(dict.fromkeys(sorted(state.keys() - {"hash"})[:2], None))
    return changes, returned


class HashProgram:
    """``handle``, as a program; ``execution_us`` is what it says that it took."""

    execution_us = 50

    def run(self, task: Task) -> Execution:
        """As the protocol has it."""
        args = json.loads(task.args)
        usage = Usage(execution_us=20_000 if args[0] == "long" else self.execution_us)
        try:
            changes, returned = handle(task.state, args)
        except ValueError as exc:
            return Execution(Failed(usage, Reason.HANDLER_ERROR, str(exc)), {})
        mutations = [
            Mutation("delete", key) if value is None else Mutation("set", key, msgspec.Raw(value))
            for key, value in changes.items()
        ]
        return Execution(Completed(usage, returned, msgspec.json.encode(mutations)), changes)

    def resume(self, task: Task, image: bytes, answers: Sequence[m.Answered]) -> Execution:
        """``handle`` never suspends, so that nothing fits."""
        return Execution(Failed(Usage(), Reason.RESUME_FAILED, "expected an image of this handler"), {})


class NoReply:
    """Nobody: the world looks at results itself."""

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        raise AssertionError("the dispatcher answers nobody")

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        raise AssertionError("no handler waits here")


@dataclass(frozen=True)
class Source:
    """A handler's source."""

    digest: bytes
    language: m.Language = "wat"
    entry: str = "handle"
    source: bytes = b"(module)"


@dataclass(eq=False)
class Process:
    """A sandbox process, and the two queues of messages between it and the gateway."""

    id: m.WorkerId
    pool: m.PoolId
    loader: FakeLoader
    inbox: deque[m.ToWorker | None] = field(default_factory=deque)
    outbox: deque[m.ToGateway] = field(default_factory=deque)
    alive: bool = True
    hung: bool = False
    joined: bool = True
    fenced: bool = False

    def __post_init__(self) -> None:
        self.sandbox = Sandbox(self.loader, replicas=Replicas(max_bytes=REPLICA_BYTES), max_tools=5)

    @property
    def able(self) -> bool:
        return self.alive and not self.hung

    def join(self) -> None:
        """Says Hello; what was sent before the answer to it is void."""
        self.sandbox.reset()
        self.joined = self.fenced = False
        self.outbox.append(m.Hello("sandbox", self.pool, 1, {}))

    def receive(self) -> None:
        """Takes one message in. None stands for a Welcome with a new session."""
        message = self.inbox.popleft()
        if message is None:
            self.joined = True
        elif self.joined:
            assert not (self.fenced and isinstance(message, m.Job)), "a job came after Drain"
            if isinstance(message, m.Drain):
                self.fenced = True
            else:
                self.sandbox.accept([message])

    def work(self) -> None:
        """Runs the next message."""
        answer = self.sandbox.run_next()
        assert not self.sandbox.defect
        if answer is not None:
            self.outbox.append(answer)


@dataclass(eq=False)
class Asked:
    """A trigger as whoever asked sees it. ``exposed`` counts the processes that ended, or were given up,
    while it was the one that they ran."""

    trigger: Trigger
    answer: Outcome | str | None = None
    exposed: int = 0


@dataclass(eq=False)
class Room:
    """A panel, and its model."""

    panel: Panel
    tools: list[m.Tool]
    sources: list[Source]
    label: str = ""
    model: State = field(default_factory=dict)
    waiting: deque[Asked] = field(default_factory=deque)
    live: bool = True


class World:
    """See the module's docstring."""

    def __init__(self, *, window: int = 4, queue_per_panel: int = 20) -> None:
        self.now = 100.0
        self.limits = DispatchLimits(window=window, queue_per_panel=queue_per_panel, queue_total=60)
        self.dispatcher = Dispatcher(self.limits, heartbeat_s=HEARTBEAT_S)
        self.program = HashProgram()
        self.sources = [Source(bytes([number]) * 32) for number in range(3)]
        self.rooms: list[Room] = []
        self.processes: list[Process] = []
        self.pools: dict[m.PoolId, deque[m.Prepare]] = {}
        self.labels: dict[m.PoolId, str] = {}
        self.exits: list[tuple[m.PoolId, m.WorkerId]] = []
        self.triggers: list[Asked] = []
        self.by_trigger: dict[Trigger, Asked] = {}
        self.unsettled: dict[Run, bool] = {}
        self.late = False
        self.refused: set[bytes] = set()
        self.lost_artifacts = False
        self.commits = 0
        self._numbers = 0

    # -- panels --------------------------------------------------------------------------------------

    def add_panel(self, label: str = "") -> Room:
        """A panel that runs on pools with ``label``, "" for those without one."""
        key = self._number()
        definition: Any = None
        panel = Panel(key=m.PanelKey(key), id=f"p{key}", definition=definition, tools={}, created_ms=0,
                      limits=STATE_LIMITS)  # fmt: skip
        tools = [
            m.Tool(self._number(), source.digest, source.language, source.entry, "t", _FIELDS, ())
            for source in self.sources
        ]
        room = Room(panel, tools, self.sources, label)
        self.dispatcher.add_panel(panel, tools, self.sources, label=label)
        self.rooms.append(room)
        return room

    def remove_panel(self, room: Room) -> None:
        for trigger, reason, _message in self.dispatcher.take_failures():
            self._fail(trigger, reason)  # what was given up before is answered before
        triggers = self.dispatcher.remove_panel(room.panel)
        assert triggers == [asked.trigger for asked in room.waiting]
        for asked in room.waiting:
            asked.answer = "the panel was removed"
        room.waiting.clear()
        room.live = False
        self.rooms.remove(room)

    def change_from_outside(self, room: Room, *, whole: bool) -> None:
        """PUT of the state, or a patch of one key: the model changes at this very moment, between two
        commits."""
        text = json.dumps(f"outside {self._number()}").encode()
        if whole:
            room.model = {"hash": text}
            room.panel.replace_state(dict(room.model))
        else:
            try:
                room.panel.commit([Mutation("set", "hash", msgspec.Raw(text))])
                room.model["hash"] = text
            except CommitRefusedError:
                return
        self.dispatcher.invalidate(room.panel)

    # -- jobs ----------------------------------------------------------------------------------------

    def submit(self, room: Room, tool: int, kind: str) -> bool:
        """A trigger; False when the dispatcher is full, which is only when there is much."""
        number = self._number()
        trigger = Trigger(
            panel=room.panel,
            tool=room.tools[tool],
            args=json.dumps([kind, number]).encode(),
            scope=b"{}",
            now_ms=0.0,
            seed=number,
            reply_to=NoReply(),
            request_id=str(number),
            submitted_s=self.now,
        )
        try:
            self.dispatcher.offer(trigger, self.now)
        except OverloadedError:
            waiting = sum(len(each.waiting) for each in self.rooms)
            assert len(room.waiting) >= self.limits.queue_per_panel or waiting >= self.limits.queue_total
            return False
        asked = Asked(trigger)
        self.triggers.append(asked)
        self.by_trigger[trigger] = asked
        room.waiting.append(asked)
        return True

    def _finish(self, run: Run, outcome: Outcome) -> None:
        """What the kernel does with a result: the next one in the panel's order, or there is something
        wrong."""
        trigger = run.trigger
        asked = self.by_trigger[trigger]
        room = next(room for room in self.rooms if room.panel is trigger.panel)
        assert room.waiting, "answered a panel that waits for nothing"
        assert room.waiting[0] is asked, "answered out of order"
        room.waiting.popleft()
        assert asked.answer is None, "answered twice"
        asked.answer = outcome
        self.commits += 1
        self._check_forgettable(run)
        if not self._commit(room, asked, outcome):
            # whatever was accepted earlier is settled first
            self.settle_late()
            self.dispatcher.refuse(run)
        elif self.late:
            self.unsettled[run] = True
        else:
            self.dispatcher.confirm(run)

    def _commit(self, room: Room, asked: Asked, outcome: Outcome) -> bool:
        """Commits to the panel and to the model; False when the commit is refused."""
        try:
            changes, returned = handle(room.model, json.loads(asked.trigger.args))
        except ValueError as exc:
            assert isinstance(outcome, Failed)
            assert outcome.message == str(exc), "ran on another state than the model's"
            return True
        assert isinstance(outcome, Completed)
        assert outcome.return_value == returned, "ran on another state than the model's"
        mutations = _mutations.decode(outcome.mutations)
        if not mutations:
            return True
        try:
            room.panel.commit(mutations)
        except CommitRefusedError as exc:
            asked.answer = str(exc)
            return False
        for key, value in changes.items():
            if value is None:
                room.model.pop(key, None)
            else:
                room.model[key] = value
        assert room.panel.state == room.model, "committed another state than the model's"
        return True

    def settle_late(self) -> None:
        """Confirms what was accepted and not confirmed, in order: its commits are durable now."""
        runs, self.unsettled = self.unsettled, {}
        for run in runs:
            self.dispatcher.confirm(run)

    def _check_forgettable(self, run: Run) -> None:
        """Nothing says that a worker may forget ``run``, which is accepted and neither confirmed nor
        refused."""
        lane = run.lane
        if lane.open and lane.epoch == run.epoch:
            assert lane.committed < run.index, "may be forgotten before it is confirmed"
        for position in lane.positions.values():
            assert position.epoch != run.epoch or position.index < run.index, "a position before confirm"

    # -- messages ------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The gateway sends what is due; to a process that is gone nothing can be sent."""
        for _ in range(100):
            for trigger, reason, _message in self.dispatcher.take_failures():
                self._fail(trigger, reason)
            self._take_overdue()
            self.dispatcher.preparations.take_prepared()
            sends = self.dispatcher.drain(self.now)
            for run in self.unsettled:
                self._check_forgettable(run)
            if not sends:
                return
            for peer, messages in sends:
                assert messages
                if m.PoolId(peer) in self.pools:
                    for message in messages:
                        assert isinstance(message, m.Prepare)
                        self.pools[m.PoolId(peer)].append(message)
                    continue
                process = self._process(peer)
                if process is None or not process.alive:
                    self.dispatcher.lost(peer, self.now)
                else:
                    process.inbox.extend(messages)
        raise AssertionError("the dispatcher never has enough")

    def _fail(self, trigger: Trigger, reason: Reason) -> None:
        asked = self.by_trigger[trigger]
        room = next(room for room in self.rooms if room.panel is trigger.panel)
        assert asked.answer is None, "answered twice"
        assert asked in room.waiting
        room.waiting.remove(asked)
        if reason is Reason.WORKER_LOST:
            assert asked.exposed >= 2 or self.lost_artifacts, "given up without two deaths"
        else:
            assert reason is Reason.HANDLER_ERROR
            assert trigger.tool.digest in self.refused
        asked.answer = reason.value

    def _take_overdue(self) -> None:
        for trigger, _message in self.dispatcher.overdue.take():
            asked = self.by_trigger[trigger]
            room = next(room for room in self.rooms if room.panel is trigger.panel)
            assert asked.answer is None, "answered twice"
            assert self.now - trigger.submitted_s > self.limits.queue_timeout_s, "given up too early"
            room.waiting.remove(asked)
            asked.answer = "overdue"

    def deliver(self, process: Process) -> None:
        """The gateway reads one message of ``process``."""
        if not process.outbox:
            return
        message = process.outbox.popleft()
        self.dispatcher.heard(process.id, self.now)
        match message:
            case m.Result():
                run = self.dispatcher.accept(process.id, message, self.now)
                if run is not None:
                    self._finish(run, message.outcome)
            case m.Missing():
                self.dispatcher.missing(process.id, message, self.now)
            case m.Hello():
                self._expose(process, everything=True)
                # one that comes too often is not welcomed, and says Hello again later
                if self.dispatcher.hello(process.id, message, self.now):
                    process.inbox.append(None)
            case m.Goodbye():
                self.dispatcher.goodbye(process.id, draining=message.draining, now=self.now)
            case _:
                raise AssertionError(message)

    def run(self, process: Process) -> None:
        """``process`` takes in one message and runs one."""
        if not process.able:
            return
        if process.inbox:
            process.receive()
        if process.sandbox.queue:
            process.work()

    def prepare(self, pool: m.PoolId, *, refusal: m.Refusal | None = None) -> None:
        """``pool`` answers what it was asked first."""
        if self.pools[pool]:
            message = self.pools[pool].popleft()
            if refusal is not None:
                self.refused.add(message.digest)
            self.dispatcher.prepared(pool, m.Prepared(message.digest, refusal), self.now)

    # -- processes -----------------------------------------------------------------------------------

    def start_pool(self, label: str = "") -> m.PoolId:
        """A pool with that label, or without any."""
        pool = m.PoolId(b"pool" + self._number().to_bytes(12, "big"))
        self.pools[pool] = deque()
        self.labels[pool] = label
        hello = m.Hello("pool", b"", 1, {}, labels=(label,) if label else ())
        assert self.dispatcher.hello(m.WorkerId(pool), hello, self.now)
        return pool

    def stop_pool(self, pool: m.PoolId) -> None:
        """The pool ends, and its sandboxes with it, as they do."""
        del self.pools[pool]
        for process in self.processes:
            if process.pool == pool and process.alive:
                self.kill(process, reported=False)
        self.dispatcher.lost(m.WorkerId(pool), self.now)

    def start_process(self, pool: m.PoolId) -> Process:
        name = m.WorkerId(b"work" + self._number().to_bytes(12, "big"))
        programs = {source.digest: self.program for source in self.sources}
        process = Process(name, pool, FakeLoader(dict(programs)))
        process.join()
        self.processes.append(process)
        return process

    def kill(self, process: Process, *, reported: bool) -> None:
        """SIGKILL; what it had sent may still arrive. ``reported``: its pool will say so."""
        if not process.alive:
            return
        process.alive = False
        process.inbox.clear()
        self._expose(process)
        if reported and process.pool in self.pools:
            self.exits.append((process.pool, process.id))

    def report_exit(self) -> None:
        """The news of a death arrives."""
        if self.exits:
            pool, worker = self.exits.pop(0)
            self.dispatcher.exited(pool, worker, self.now)

    def forge(self, process: Process, number: int) -> None:
        """``process``, taken over by its guest, answers a job that it does not run."""
        outstanding = list(self._outstanding(process))
        if len(outstanding) > 1 and number % 2:
            target = outstanding[1 + number % (len(outstanding) - 1)]
        else:
            target = number + 1_000_000
        if target in outstanding and self._worker(process).outstanding[outstanding[0]] is None:
            return  # a placeholder before it may be skipped
        result = m.Result(target, Completed(Usage(), b'"forged"'))
        assert self.dispatcher.accept(process.id, result, self.now) is None

    def _worker(self, process: Process) -> Any:
        return self.dispatcher._fleet.workers.get(process.id)

    def _outstanding(self, process: Process) -> dict[int, Run | None]:
        worker = self._worker(process)
        return worker.outstanding if worker is not None else {}

    def _expose(self, process: Process, *, everything: bool = False) -> None:
        """Notes which job a process had begun when it ended: its first that is not answered."""
        for run in self._outstanding(process).values():
            if run is not None:
                self.by_trigger[run.trigger].exposed += 1
                if not everything:
                    return

    def _process(self, peer: bytes) -> Process | None:
        return next((process for process in self.processes if process.id == peer), None)

    # -- time ----------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Time passes; who is alive is heard of, a hung process as well, and who is not known any more
        says Hello again."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + max(0.01, min(0.2, seconds / 4)))
            for process in self.processes:
                if process.alive and not self.dispatcher.heard(process.id, self.now):
                    said = any(isinstance(message, m.Hello) for message in process.outbox)
                    if process.able and not said:
                        process.join()
            for pool in self.pools:
                self.dispatcher.heard(m.WorkerId(pool), self.now)
            known = {
                process.id: (process, next(iter(self._outstanding(process).values()), None))
                for process in self.processes
                if process.alive
            }
            self.dispatcher.tick(self.now)
            for process, running in known.values():
                if running is not None and self._worker(process) is None:
                    self.by_trigger[running.trigger].exposed += 1
            self.flush()

    def settle(self) -> None:
        """Everything goes well from now on, until nobody waits."""
        self.late = False
        self.settle_late()
        self.lost_artifacts = False
        for process in self.processes:
            process.hung = False
            process.loader.programs = {source.digest: self.program for source in self.sources}
        self.dispatcher.overdue.timeout_s = float("inf")  # nothing may be given up any more
        while self.exits:
            self.report_exit()
        self._provide(known=False)
        for _ in range(400):
            if not any(room.waiting for room in self.rooms):
                break
            self.round()
            self.sleep(0.3)
            self._provide(known=True)
        else:
            raise AssertionError("some triggers are never answered")
        self.round()

    def _provide(self, *, known: bool) -> None:
        """Sees to it that each panel has a process that could run it, ``known`` to the dispatcher."""
        for label in sorted({"", *(room.label for room in self.rooms)}):
            pools = [pool for pool in self.pools if self.labels[pool] == label] or [self.start_pool(label)]
            if not any(
                process.able
                and process.pool in pools
                and not process.fenced
                and (not known or self._worker(process))
                for process in self.processes
            ):
                self.start_process(pools[0])

    def round(self) -> None:
        """All that waits somewhere moves on."""
        for _ in range(50):
            self.flush()
            for pool in list(self.pools):
                while self.pools[pool]:
                    self.prepare(pool)
            moved = False
            for process in self.processes:
                while process.able and (process.inbox or process.sandbox.queue):
                    self.run(process)
                    moved = True
                while process.outbox:
                    self.deliver(process)
                    moved = True
            if not moved:
                return

    # -- what always holds ---------------------------------------------------------------------------

    def check(self) -> None:
        """Bounds, and the dispatcher's own books."""
        dispatcher = self.dispatcher
        stats = dispatcher.stats()
        failing = {trigger for trigger, _, _ in dispatcher._backlog._failures}
        failing |= {trigger for trigger, _ in dispatcher.overdue._taken}
        waiting = [asked.trigger for room in self.rooms for asked in room.waiting]
        waiting = [trigger for trigger in waiting if trigger not in failing]
        assert stats["jobs"] == len(waiting)
        assert stats["job_bytes"] == sum(len(trigger.args) for trigger in waiting)
        for worker in dispatcher._fleet.workers.values():
            assert len(worker.outstanding) <= MAX_CREDIT
            assert worker.queued == sum(len(lane.queue) for lane in worker.lanes)
            assert worker.queued >= 0
            assert len(worker.ring) == len(set(worker.ring))
            for lane in worker.ring:
                assert lane.worker is worker
                assert lane.scheduled
        for room in self.rooms:
            lane = dispatcher._fleet.lanes[room.panel.key]
            assert len(lane.in_flight) <= self.limits.window
            if lane.worker is not None:
                assert self.labels[lane.worker.pool] == room.label, "runs on a pool that is not its own"
            runs = [run for run in (*lane.in_flight, *lane.queue) if run.trigger not in failing]
            triggers = [asked.trigger for asked in room.waiting if asked.trigger not in failing]
            assert [run.trigger for run in runs] == triggers
            assert room.panel.state == room.model
            if lane.in_flight:
                assert lane.worker is not None
                sent = [run for run in lane.worker.outstanding.values() if run in lane.in_flight]
                assert sent == list(lane.in_flight)

    def check_all_answered(self) -> None:
        """At the end: each trigger has its one answer."""
        assert all(asked.answer is not None for asked in self.triggers)
        assert self.dispatcher.stats()["jobs"] == 0

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
