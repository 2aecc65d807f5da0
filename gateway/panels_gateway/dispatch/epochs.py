"""Epochs: stretches of a lane's runs on one worker, whose results can be taken as they come. Pure.

An epoch begins with the panel's state, as a snapshot or as a delta from a position that the worker's replica
can be taken back to. It ends when the worker's replica can no longer be what the gateway holds: a commit was
refused, the panel changed from outside, the lane moves, the worker lacks something. The runs in flight go
back to the front of the queue, and whatever the worker still answers to them is stale.

What a worker may forget follows from ``Lane.committed``, which each job carries, and a position never lies
before it. So both move in ``confirm`` and nowhere else: a run that was accepted may still be refused, and the
worker must then be able to undo it.

Interleavings: between ``accept`` and ``confirm`` or ``refuse`` of a run its epoch may end, its lane may move,
and the next epoch may begin, on the same worker or on another. ``confirm`` then moves the position that the
ended epoch left, if it is still there.
"""

from __future__ import annotations

from panels_gateway.dispatch import allowance
from panels_gateway.dispatch.fleet import Lane, Position, Run, Worker
from panels_shared import messages as m


class Epochs:
    """Begins and ends epochs, and counts them: ``begun``, of which ``snapshots`` and ``deltas``."""

    __slots__ = ("begun", "deltas", "snapshots")

    def __init__(self) -> None:
        self.begun = 0
        self.snapshots = 0
        self.deltas = 0

    def begin(self, lane: Lane, worker: Worker) -> m.Delta | m.Snapshot:
        """Opens an epoch of the lane, which has none open, on ``worker``, which serves it; what to send
        for that."""
        lane.epoch += 1
        lane.open = True
        lane.next_index = 0
        lane.committed = -1
        panel = lane.panel
        lane.seq = panel.seq
        self.begun += 1
        position = lane.positions.get(worker)
        changes = panel.changes_since(position.seq) if position is not None else None
        if position is not None and changes is not None:
            self.deltas += 1
            return m.Delta(lane.key, lane.epoch, position.epoch, position.index, changes)
        self.snapshots += 1
        return m.Snapshot(lane.key, lane.epoch, dict(panel.state))

    def end(self, lane: Lane, *, keep_position: bool = True) -> m.Revoke | None:
        """Ends the lane's epoch, if one is open; what to send to its worker, None for nothing.

        The runs in flight go back to the front of the queue. ``keep_position`` is False when the worker's
        replica is not there any more, or cannot be relied upon.
        """
        worker = lane.worker
        if worker is None:
            return None
        if not keep_position:
            lane.positions.pop(worker, None)
        if not lane.open:
            return None
        lane.open = False
        if keep_position:
            lane.remember(worker)
        if not lane.in_flight:
            return None
        outstanding = worker.outstanding
        running = next(iter(outstanding), None)
        for run in reversed(lane.in_flight):
            allowance.revoke(worker, run.id, run.trigger.tool)
            if run.id == running:
                # it may have begun, and then the worker is busy with it until it answers
                outstanding[run.id] = None
            else:
                outstanding.pop(run.id, None)
            lane.queue.appendleft(run)
        worker.queued += len(lane.in_flight)
        lane.in_flight.clear()
        return m.Revoke(lane.key, lane.epoch)

    def confirm(self, run: Run) -> None:
        """Lets the worker forget what undoes the run, which was accepted. Runs of a lane are confirmed in
        their order."""
        lane = run.lane
        if lane.open and lane.epoch == run.epoch:
            assert run.index == lane.committed + 1, (
                "expected the runs of a panel to be confirmed in their order"
            )
            lane.committed = run.index
            lane.seq = run.seq
            return
        worker = run.worker
        position = lane.positions.get(worker) if worker is not None else None
        # after a run that was refused comes a gap, which no later run of that epoch can pass
        if (
            worker is not None
            and position is not None
            and position.epoch == run.epoch
            and position.index + 1 == run.index
        ):
            lane.positions[worker] = Position(run.epoch, run.index, run.seq)

    def refuse(self, run: Run) -> None:
        """Notes that nothing came between the last run that was confirmed and this one. Call ``end``
        afterwards.

        The panel's version when the run was accepted is then the version of that position, so that the next
        epoch begins with the smallest delta.
        """
        lane = run.lane
        if lane.open:
            if lane.epoch == run.epoch and run.index == lane.committed + 1:
                lane.seq = run.seq
            return
        worker = run.worker
        position = lane.positions.get(worker) if worker is not None else None
        if (
            worker is not None
            and position is not None
            and position.epoch == run.epoch
            and position.index + 1 == run.index
        ):
            lane.positions[worker] = Position(run.epoch, position.index, run.seq)
