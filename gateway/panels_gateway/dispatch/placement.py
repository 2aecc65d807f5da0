"""Placement: which worker gets which lane. Pure; it looks at the fleet and returns decisions, and changes
neither.

- A lane goes to workers of pools that have its label, and to no others.
- A lane without a worker goes to the idlest one when it has something to run, or waits until a worker is
  there.
- A worker that is stalled by one lane's long run is *relieved*: the other lanes move to workers that have
  room.
- From time to time some lanes of the worker with the most work are *rebalanced* to the one with the least.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from panels_gateway.dispatch.fleet import Fleet, Lane, Worker

#: How often lanes are moved from loaded to idle workers, in seconds.
REBALANCE_S: Final = 0.1
#: How long a lane that has moved then stays, in seconds.
SETTLE_S: Final = 1.0
#: A worker with at most this share of another's work may be given some of its lanes.
IDLE_SHARE: Final = 0.25
#: This many idle lanes of a worker weigh as much as one that is busy.
_IDLE_LANES: Final = 64


@dataclass(frozen=True, slots=True)
class Move:
    """A decision: ``lane`` is to be served by ``target``.

    ``at_once``: its runs in flight are revoked and run there. Otherwise it moves once nothing of it is in
    flight.
    """

    lane: Lane
    target: Worker
    at_once: bool


class Placement:
    """Decides for ``fleet``. Times are monotonic seconds.

    A lane that no worker can take waits here, in the order of ``wait``. Bound: each lane once, which is
    ``Lane.scheduled``. Costs: ``idlest`` is O(workers), ``rebalance`` O(workers and the busy lanes of one).
    """

    __slots__ = ("_fleet", "_rebalanced_s", "_unassigned")

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._rebalanced_s = float("-inf")
        self._unassigned: deque[Lane] = deque()

    def idlest(self, lane: Lane, *, now: float, exclude: Worker | None = None) -> Worker | None:
        """The worker with the least to do, other than ``exclude``; None when no worker is able to take a
        lane."""
        best: Worker | None = None
        least = (True, float("inf"), 0)
        for worker in self._fleet.able_for(lane.label):
            if worker is exclude:
                continue
            load = (
                worker.stalled(now),
                worker.backlog_us,
                len(worker.busy) + len(worker.lanes) // _IDLE_LANES,
            )
            # a worker that has a replica of the panel wins a tie
            if load < least or (load == least and worker in lane.positions):
                best, least = worker, load
        return best

    def wait(self, lane: Lane) -> None:
        """Keeps the lane, which has no worker, until ``take_waiting``, if it has anything to run."""
        if lane.queue and not lane.scheduled:
            lane.scheduled = True
            self._unassigned.append(lane)

    def take_waiting(self) -> list[Lane]:
        """The lanes that wait for a worker, in order, each of them to be assigned or to ``wait`` again."""
        lanes, self._unassigned = self._unassigned, deque()
        for lane in lanes:
            lane.scheduled = False
        return [lane for lane in lanes if self._fleet.holds(lane) and lane.worker is None and lane.queue]

    def waiting(self) -> list[Lane]:
        """The lanes that have something to run and no worker that could."""
        return [lane for lane in self._unassigned if self._fleet.holds(lane) and lane.worker is None]

    def relieve(self, worker: Worker, now: float) -> Move | None:
        """The next lane to take away from ``worker``, which is stalled; None when there is none, or nowhere
        to go.

        One at a time, because each move changes the load that the next decision rests on: the caller carries
        it out and asks again.
        """
        running = worker.running
        looked: set[str] = set()
        for lane in worker.busy:
            if lane.label in looked or (running is not None and lane is running.lane):
                continue
            looked.add(lane.label)
            other = self.idlest(lane, exclude=worker, now=now)
            if other is not None and len(other.outstanding) < other.credit and not other.stalled(now):
                return Move(lane, other, at_once=True)
        return None

    def rebalance(self, now: float) -> list[Move]:
        """The lanes to move from the worker with the most work to the one with the least, every
        ``REBALANCE_S``."""
        if now - self._rebalanced_s < REBALANCE_S:
            return []
        self._rebalanced_s = now
        labels = {label for pool in self._fleet.pools.values() for label in pool.labels}
        return [move for label in sorted(labels) for move in self._rebalance(label, now)]

    def _rebalance(self, label: str, now: float) -> list[Move]:
        able = list(self._fleet.able_for(label))
        if len(able) < 2:
            return []
        low = min(able, key=lambda worker: worker.backlog_us)
        high = max(able, key=lambda worker: worker.backlog_us)
        movable = len(high.busy) - len(low.busy)
        if movable < 2 or low.backlog_us > IDLE_SHARE * high.backlog_us:
            return []
        settled = [
            lane
            for lane in high.busy
            if lane.label == label and lane.target is None and now - lane.moved_s >= SETTLE_S
        ]
        return [Move(lane, low, at_once=False) for lane in settled[: movable // 2]]
