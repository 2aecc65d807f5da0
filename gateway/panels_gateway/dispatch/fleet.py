"""The fleet: the lanes of all panels, the workers that serve them and the pools that compile for those
workers. Pure.

A lane is one panel's triggers, in order. Each of them is a run, which moves through its lane like this:

    waiting (queue) ──send──▶ in flight (in_flight) ──accept──▶ accepted ──confirm──▶ forgettable
           ▲                        │                              │
           └──── end of epoch ──────┘                              └──refuse──▶ the epoch ends

When an epoch ends, the runs in flight go back to the front of the queue in their order. Runs that have been
accepted never go back.

Lanes, workers and runs point at each other, so they share this module. They hold the books and a few rules
about themselves; who may change them when is said by the modules that do: ``rings``, ``epochs``,
``placement``, ``sender``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Final

import msgspec

from panels_gateway.panels.panel import Panel
from panels_gateway.panels.trigger import Trigger
from panels_shared.liveness import Liveness
from panels_shared.messages import PoolId, ToWorker, WorkerId

#: Workers whose replica of one panel is remembered.
MAX_POSITIONS: Final = 4
#: How much work may be sent to a worker ahead, in microseconds of its own time: enough to cover a round
#: trip, and the gateway's turns, which are long when it refuses thousands of triggers a second. With half of
#: it workers ran dry at five times the rate that they could sustain, and goodput was 0.79 of the peak, and
#: not 0.98.
CREDIT_US: Final = 4_000.0
#: Bounds of what that comes to, in runs.
MIN_CREDIT: Final = 2
MAX_CREDIT: Final = 256
#: What a run costs a worker besides its execution, in microseconds.
OVERHEAD_US: Final = 10.0
#: What a run is assumed to take on a worker that has not answered any, in microseconds.
FIRST_GUESS_US: Final = 100.0
#: The longest execution that a worker is believed, in microseconds; it may be compromised.
MAX_EXECUTION_US: Final = 60_000_000
#: A worker is stalled once its current run has taken this long, in seconds and in average runs.
STALL_S: Final = 0.02
STALL_RUNS: Final = 4
#: Weight of the newest run in a worker's average.
_SMOOTHING: Final = 0.1


class Run(msgspec.Struct, eq=False):
    """Where one trigger stands. It belongs to one lane from ``offer`` until it is confirmed, refused or
    failed.

    - ``id``: the number of its last sending, 0 before the first. Each sending takes a new number, so that an
      answer to an earlier one cannot pass for an answer to this one.
    - ``epoch``, ``index``: its place in the lane's order as it was last sent; ``index`` is -1 before that.
    - ``sent_s``: when it was last sent, in monotonic seconds.
    - ``worker``: to whom it was last sent.
    - ``seq``: the panel's version when it was accepted, before its own commit.
    - ``losses``, ``lost_s``: how many workers died while they ran it, and when the last of them did.
    - ``misses``: how often a worker could not run it because something was missing there.
    - ``interruptions``: how often it was running on a worker that died, left, began anew or broke the
      protocol. ``spent_s``: how long it was running in the sendings that came to nothing.
    """

    trigger: Trigger
    lane: Lane
    sent_s: float
    id: int = 0
    epoch: int = 0
    index: int = -1
    worker: Worker | None = None
    seq: int = 0
    losses: int = 0
    lost_s: float = 0.0
    misses: int = 0
    interruptions: int = 0
    spent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Position:
    """A state that one worker's replica of a panel can be taken back to: the one after run ``index`` of
    ``epoch``.

    That state contains all changes up to the panel's version ``seq``, and perhaps some later ones. A delta
    from ``seq`` is still right then: it repeats those changes with the same values.
    """

    epoch: int
    index: int
    seq: int


class Lane:
    """One panel's triggers in order, and what is known of the panel's replicas.

    - ``label``: that of the pools that may run it; see ``Pool``.
    - ``queue``: runs that wait, oldest first. ``in_flight``: runs that were sent and not answered, oldest
      first; they are all older than the queue. Both are bounded by ``DispatchLimits``.
    - ``worker``: who serves the lane, None while nobody does. ``target``: to whom the lane moves as soon as
      nothing of it is in flight; nothing is sent until then. ``moved_s``: when it last moved, or was told to.
    - ``scheduled``: whether the lane is in its worker's ring, or among the unassigned lanes while it has no
      worker.
    - ``open``: whether an epoch is open on ``worker``. ``epoch`` is its number, or that of the last one;
      epochs of a lane only count up. ``next_index`` is the index of the next run of this epoch.
    - ``committed``: the last run of this epoch that was confirmed, -1 for none. The worker is told, and may
      forget what undoes the runs up to there, so this never moves before ``confirm``. ``seq`` is a version of
      the panel that the replica is known to contain at that point; see ``Position``.
    - ``positions``: where a worker's replica can be taken back to, for the last ``MAX_POSITIONS`` workers
      whose epoch ended. The entry of the worker that has the open epoch is out of date.
    """

    __slots__ = (
        "committed",
        "epoch",
        "in_flight",
        "key",
        "label",
        "moved_s",
        "next_index",
        "open",
        "panel",
        "positions",
        "queue",
        "scheduled",
        "seq",
        "target",
        "tools",
        "worker",
    )

    def __init__(self, panel: Panel, tools: tuple[int, ...], label: str = "") -> None:
        self.panel = panel
        self.label = label
        self.key = panel.key
        self.tools = tools
        self.queue: deque[Run] = deque()
        self.in_flight: deque[Run] = deque()
        self.worker: Worker | None = None
        self.target: Worker | None = None
        self.scheduled = False
        self.moved_s = float("-inf")
        self.open = False
        self.epoch = 0
        self.next_index = 0
        self.committed = -1
        self.seq = 0
        self.positions: dict[Worker, Position] = {}

    def remember(self, worker: Worker) -> None:
        """Notes where ``worker``'s replica can be taken back to. Call it when an epoch ends there."""
        self.positions.pop(worker, None)
        self.positions[worker] = Position(self.epoch, self.committed, self.seq)
        if len(self.positions) > MAX_POSITIONS:
            del self.positions[next(iter(self.positions))]


class Pool:
    """A ``panels-worker`` process, which compiles handlers for its workers.

    It runs and compiles for panels with one of its ``labels``; the label "" is that of panels without one.
    ``prepared`` holds the digests that its workers can run; ``preparing`` maps those that it was asked for,
    and has not answered, to the time of asking. ``outbox`` is sent, whole, by the next ``drain``.
    ``replaces``: it understands ``Replace``.
    """

    __slots__ = ("id", "labels", "liveness", "outbox", "prepared", "preparing", "replaces")

    def __init__(
        self,
        pool_id: PoolId,
        liveness: Liveness,
        labels: frozenset[str] = frozenset(("",)),
        *,
        replaces: bool = False,
    ) -> None:
        self.id = pool_id
        self.labels = labels
        self.replaces = replaces
        self.liveness = liveness
        self.prepared: set[bytes] = set()
        self.preparing: dict[bytes, float] = {}
        self.outbox: list[ToWorker] = []


class Unanswerable(Enum):
    """Why an answer does not end a run.

    STALE: its run is not on the worker's list (any more). REVOKED: its run was revoked when it may have been
    running, and now the worker is done with it. FORGED: an older run has to be answered first.
    """

    STALE = "stale"
    REVOKED = "revoked"
    FORGED = "forged"


class Worker:
    """A sandbox process, which runs what it is sent strictly in order.

    - ``outstanding``: what it was sent and has not answered, by run id, oldest first: the first is the one
      that is running, since ``running_since_s``. None stands for a run that was revoked while it may have
      been running. Bounded by ``credit``.
    - ``ring``: its lanes that have a run to send, served in turn. A lane is there at most once.
    - ``lanes``: the lanes that it serves; ``busy``: those that have anything queued or in flight, oldest
      first.
    - ``cautious``: lanes whose next run was running when another worker died. They wait for a sign of life.
    - ``queued``: how many runs of its lanes wait in the gateway.
    - ``tools``: the tools whose definitions it has.
    - ``revoked_bytes``: what it may still answer to runs that were revoked, in bytes, up to the one with the
      number ``revoked_last``; see ``allowance``.
    - ``average_us``: a moving average of execution times; ``credit``: how many runs may be outstanding.
    - ``dirty``: whether the next ``drain`` looks at it. ``draining``: it answers what it has and gets nothing
      more.
    """

    __slots__ = (
        "average_us",
        "busy",
        "cautious",
        "credit",
        "dirty",
        "draining",
        "id",
        "lanes",
        "liveness",
        "outbox",
        "outstanding",
        "pool",
        "queued",
        "revoked_bytes",
        "revoked_last",
        "ring",
        "running_since_s",
        "tools",
    )

    def __init__(self, worker_id: WorkerId, pool: PoolId, liveness: Liveness) -> None:
        self.id = worker_id
        self.pool = pool
        self.liveness = liveness
        self.outbox: list[ToWorker] = []
        self.outstanding: dict[int, Run | None] = {}
        self.ring: deque[Lane] = deque()
        self.lanes: dict[Lane, None] = {}
        self.busy: dict[Lane, None] = {}
        self.cautious: list[Lane] = []
        self.tools: set[int] = set()
        self.revoked_bytes = 0
        self.revoked_last = 0
        self.running_since_s = 0.0
        self.average_us = FIRST_GUESS_US
        self.credit = MIN_CREDIT
        self.queued = 0
        self.draining = False
        self.dirty = False
        self.observe(FIRST_GUESS_US)

    def observe(self, execution_us: float) -> None:
        """Takes one more execution time into the average, from which the credit follows."""
        if not 0 <= execution_us <= MAX_EXECUTION_US:
            execution_us = min(max(execution_us, 0), MAX_EXECUTION_US)
        self.average_us += (execution_us - self.average_us) * _SMOOTHING
        credit = int(CREDIT_US / (self.average_us + OVERHEAD_US))
        self.credit = (
            credit if MIN_CREDIT <= credit <= MAX_CREDIT else max(MIN_CREDIT, min(MAX_CREDIT, credit))
        )

    def answered(self, number: int, now: float) -> Run | Unanswerable:
        """Takes the run with this id off the list, together with the revoked ones before it.

        A worker answers in order, so an answer that overtakes a run which is still wanted is FORGED, and
        changes nothing. Revoked runs may be passed over: whether they had begun is not known.
        """
        outstanding = self.outstanding
        if number not in outstanding:
            return Unanswerable.STALE
        if next(iter(outstanding)) != number:
            passed = list(takewhile(lambda first: first != number, outstanding))
            if any(outstanding[first] is not None for first in passed):
                return Unanswerable.FORGED
            for first in passed:
                del outstanding[first]
        run = outstanding.pop(number)
        self.running_since_s = now
        if self.revoked_bytes and number > self.revoked_last:
            self.revoked_bytes = 0
        return run if run is not None else Unanswerable.REVOKED

    @property
    def running(self) -> Run | None:
        """The run that is being executed, None when there is none or it was revoked."""
        return next(iter(self.outstanding.values()), None)

    def stalled(self, now: float) -> bool:
        """Whether one run keeps all others waiting, so that lanes which wait for this worker may move
        away."""
        elapsed = now - self.running_since_s
        return bool(self.outstanding) and elapsed > STALL_S and elapsed > STALL_RUNS * self.average_us / 1e6

    @property
    def backlog_us(self) -> float:
        """An estimate of the work that waits for this worker, in the gateway and in the worker, in
        microseconds."""
        return (len(self.outstanding) + self.queued) * (self.average_us + OVERHEAD_US)


class Fleet:
    """All lanes by panel key, and all workers and pools by id: the state that the dispatcher's parts share.

    A lane, worker or pool that is not the one found here under its key is gone, and what still points at it
    is void.
    """

    __slots__ = ("lanes", "pools", "workers")

    def __init__(self) -> None:
        self.lanes: dict[int, Lane] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.pools: dict[PoolId, Pool] = {}

    def holds(self, lane: Lane) -> bool:
        """Whether the lane's panel is still dispatched for."""
        return self.lanes.get(lane.key) is lane

    def able(self) -> Iterator[Worker]:
        """The workers that may be given lanes: they stay, and their pool, which compiles for them, is
        connected."""
        pools = self.pools
        return (worker for worker in self.workers.values() if not worker.draining and worker.pool in pools)

    def able_for(self, label: str) -> Iterator[Worker]:
        """The workers that may be given lanes with this label."""
        pools = self.pools
        return (worker for worker in self.able() if label in pools[worker.pool].labels)

    def peers(self) -> Iterator[WorkerId]:
        """Everyone who is to hear the gateway's heartbeat."""
        yield from self.workers
        yield from (WorkerId(pool_id) for pool_id in self.pools)
