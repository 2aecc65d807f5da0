"""The worker peers that the dispatcher knows: pools, which prepare handlers, and workers, which run jobs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from panels_shared.liveness import Liveness
from panels_shared.messages import PoolId, ToWorker, WorkerId

if TYPE_CHECKING:
    from panels_gateway.dispatch.job import Job
    from panels_gateway.dispatch.lane import Lane

#: How much work a worker may have before it, in microseconds of its own time: enough to cover a round trip.
CREDIT_US: Final = 2_000.0
MIN_CREDIT: Final = 2
MAX_CREDIT: Final = 256
#: What a job costs a worker beside its execution, in microseconds.
OVERHEAD_US: Final = 10.0
#: A worker is stalled when its job runs this long, in seconds and in average jobs: panels that wait for it may move.
STALL_S: Final = 0.02
STALL_JOBS: Final = 4
#: Weight of the newest job in the average.
_SMOOTHING: Final = 0.1


class Pool:
    """A ``panels-worker`` process. ``preparing`` maps digests to when they were asked for."""

    __slots__ = ("id", "liveness", "outbox", "prepared", "preparing", "workers")

    def __init__(self, pool_id: PoolId, liveness: Liveness) -> None:
        self.id = pool_id
        self.liveness = liveness
        self.prepared: set[bytes] = set()
        self.preparing: dict[bytes, float] = {}
        self.outbox: list[ToWorker] = []
        self.workers: set[Worker] = set()


class Worker:
    """A sandbox process, which runs what it is sent strictly in order.

    - ``outstanding``: what it was sent and has not answered, oldest first: the first is the one that is running. None stands
      for a job that was revoked while it may have been running.
    - ``ring``: its panels that have a job to send, served in turn; every one is there at most once (``Lane.scheduled``).
    - ``busy``: its panels with anything queued or in flight.
    - ``cautious``: panels whose next job was being run when a worker died: they wait for a sign of life from this one.
    - ``queued``: jobs of its panels that wait in the gateway.
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
        "ring",
        "running_since_s",
        "tools",
    )

    def __init__(self, worker_id: WorkerId, pool: PoolId, liveness: Liveness) -> None:
        self.id = worker_id
        self.pool = pool
        self.liveness = liveness
        self.outbox: list[ToWorker] = []
        self.outstanding: dict[int, Job | None] = {}
        self.ring: deque[Lane] = deque()
        self.lanes: set[Lane] = set()
        self.busy: dict[Lane, None] = {}
        self.cautious: list[Lane] = []
        self.tools: set[int] = set()
        self.running_since_s = 0.0
        self.average_us = 100.0
        self.credit = MIN_CREDIT
        self.queued = 0
        self.draining = False
        self.dirty = False
        self.observe(100.0)

    def observe(self, execution_us: float) -> None:
        """One more job took this long: how much may be before the worker follows from it."""
        self.average_us += (execution_us - self.average_us) * _SMOOTHING
        self.credit = max(MIN_CREDIT, min(MAX_CREDIT, int(CREDIT_US / (self.average_us + OVERHEAD_US))))

    def stalled(self, now: float) -> bool:
        """Whether one job keeps all others waiting."""
        elapsed = now - self.running_since_s
        return bool(self.outstanding) and elapsed > STALL_S and elapsed > STALL_JOBS * self.average_us / 1e6

    @property
    def backlog_us(self) -> float:
        """An estimate of the work that waits for this worker, here and there."""
        return (len(self.outstanding) + self.queued) * (self.average_us + OVERHEAD_US)
