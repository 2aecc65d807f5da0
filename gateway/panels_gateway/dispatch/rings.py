"""The rings: which lanes of a worker have something to send, and which workers to look at. Pure.

A worker's lanes take turns, a run each, so that a panel with a thousand triggers does not delay another one.
A worker is *dirty* while there is something to send to it; ``take_dirty`` gives each of them once.
"""

from __future__ import annotations

from panels_gateway.dispatch.fleet import Lane, Worker
from panels_shared.messages import ToWorker


class Rings:
    """Puts lanes into the rings of their workers. ``window`` bounds the runs of one lane in flight.

    Obligation: whatever may give a lane something to send, or take away its last run, is followed by ``put``.
    The costs of ``put``, ``mark`` and ``send`` are O(1); ``detach`` costs the length of the ring.
    """

    __slots__ = ("_dirty", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._dirty: list[Worker] = []

    def put(self, lane: Lane) -> bool:
        """Puts the lane, which has a worker, into its worker's ring if it has a run that may be sent.

        True when it has to move instead, now: it, or its worker, is leaving and nothing of it is in flight.
        """
        worker = lane.worker
        assert worker is not None
        if not lane.queue:
            if not lane.in_flight:
                worker.busy.pop(lane, None)
            return False
        if lane not in worker.busy:
            worker.busy[lane] = None
        if worker.draining or lane.target is not None:
            # with runs in flight, it leaves when the last of them is accepted
            return not lane.in_flight
        if not lane.scheduled and len(lane.in_flight) < self._window:
            lane.scheduled = True
            worker.ring.append(lane)
            if not worker.dirty and len(worker.outstanding) < worker.credit:
                self.mark(worker)
        return False

    def mark(self, worker: Worker) -> None:
        """Has the next ``drain`` look at ``worker``."""
        if not worker.dirty:
            worker.dirty = True
            self._dirty.append(worker)

    def send(self, worker: Worker, message: ToWorker) -> None:
        """Has the next ``drain`` send ``message``, before any run that it sends."""
        worker.outbox.append(message)
        self.mark(worker)

    def take_dirty(self) -> list[Worker]:
        """The workers that were marked since the last call. Some may have gone since."""
        workers, self._dirty = self._dirty, []
        for worker in workers:
            worker.dirty = False
        return workers

    def attach(self, lane: Lane, worker: Worker, now: float) -> None:
        """Gives the lane, which has no worker, to ``worker``. Call ``put`` afterwards."""
        lane.worker = worker
        lane.moved_s = now
        worker.lanes[lane] = None
        worker.queued += len(lane.queue)

    def detach(self, lane: Lane, worker: Worker) -> None:
        """Takes the lane, which has no epoch open, from ``worker``, which serves it."""
        worker.lanes.pop(lane, None)
        worker.busy.pop(lane, None)
        worker.queued -= len(lane.queue)
        if lane.scheduled:
            lane.scheduled = False
            worker.ring.remove(lane)
        lane.worker = None

    def close(self, worker: Worker) -> None:
        """Empties the ring of a worker that gets no more runs."""
        for lane in worker.ring:
            lane.scheduled = False
        worker.ring.clear()
