"""The mover: carries out what the other parts decide about a lane, so that all their books agree
afterwards. Pure."""

from __future__ import annotations

from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet, Lane, Worker
from panels_gateway.dispatch.placement import Placement
from panels_gateway.dispatch.preparations import Preparations
from panels_gateway.dispatch.rings import Rings


class Mover:
    """Puts lanes into rings, moves them between workers, and ends their epochs.

    A lane is in one of these places at a time: with a worker (idle, in its ring, blocked, cautious, or with a
    full window), among those that wait for a worker, or nowhere, when it has no worker and nothing to run.
    Times are monotonic seconds. ``moves`` counts the moves.
    """

    __slots__ = ("_epochs", "_fleet", "_placement", "_preparations", "_rings", "moves")

    def __init__(
        self, fleet: Fleet, rings: Rings, epochs: Epochs, placement: Placement, preparations: Preparations
    ) -> None:
        self._fleet = fleet
        self._rings = rings
        self._epochs = epochs
        self._placement = placement
        self._preparations = preparations
        self.moves = 0

    def put(self, lane: Lane) -> None:
        """Has the lane's runs sent in their turn, or has it wait for a worker if it has none."""
        if lane.worker is None:
            self._placement.wait(lane)
        elif self._rings.put(lane):
            # ``now`` is not known to all callers; as the time of an attachment, that of the last one does
            self.move(lane, lane.target, lane.moved_s)

    def end_epoch(self, lane: Lane, *, keep_position: bool = True) -> None:
        """Ends the lane's epoch, if one is open; see ``Epochs.end``.

        Call ``put`` or ``detach`` afterwards.
        """
        revoke = self._epochs.end(lane, keep_position=keep_position)
        if revoke is not None and lane.worker is not None:
            self._rings.send(lane.worker, revoke)

    def assign(self, lane: Lane, now: float) -> None:
        """Gives the lane, which has no worker, to the idlest one; it waits when there is none."""
        worker = self._placement.idlest(lane, now=now)
        if worker is None:
            self._placement.wait(lane)
            return
        self.attach(lane, worker, now)

    def attach(self, lane: Lane, worker: Worker, now: float) -> None:
        """Gives the lane, which has no worker, to ``worker``."""
        self._rings.attach(lane, worker, now)
        self.put(lane)

    def detach(self, lane: Lane) -> None:
        """Takes the lane from its worker, if it has one; what is in flight goes back to its queue."""
        worker = lane.worker
        lane.target = None
        if worker is not None:
            self.end_epoch(lane)
            self._preparations.unblock(lane)
            self._rings.detach(lane, worker)

    def move(self, lane: Lane, target: Worker | None, now: float) -> None:
        """Moves the lane to ``target``, or, when that is None or leaving, to the idlest worker if it has
        runs."""
        self.moves += 1
        self.detach(lane)
        if target is not None and self._fleet.workers.get(target.id) is target and not target.draining:
            self.attach(lane, target, now)
        elif lane.queue:
            self.assign(lane, now)

    def block(self, lane: Lane, worker: Worker, now: float) -> None:
        """The pool of the lane's worker has not prepared the next handler: wait for it, or go where there
        is a pool."""
        pool = self._fleet.pools.get(worker.pool)
        if pool is None:
            self.move(lane, None, now)
        else:
            self._preparations.block(lane, pool, lane.queue[0].trigger.tool.digest, now)
