"""The members of the fleet: workers and pools that come, speak, leave and are lost. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from panels_gateway.dispatch.backlog import Backlog
from panels_gateway.dispatch.fleet import Fleet, Pool, Run, Worker
from panels_gateway.dispatch.mover import Mover
from panels_gateway.dispatch.placement import Placement
from panels_gateway.dispatch.preparations import Preparations
from panels_gateway.dispatch.returns import Returns
from panels_gateway.dispatch.rings import Rings
from panels_gateway.dispatch.watch import allowed_s
from panels_shared import messages as m
from panels_shared.liveness import Liveness
from panels_shared.messages import PoolId, WorkerId
from panels_shared.outcome import Reason

#: Workers that may die while they run a trigger before it is given up.
MAX_LOSSES: Final = 2
#: Workers that may leave, begin anew or break the protocol while they run a trigger before it is given up.
MAX_INTERRUPTIONS: Final = 8
#: Peers, security limits.
MAX_WORKERS: Final = 1_024
MAX_POOLS: Final = 256


class Members:
    """Admits peers and lets them go, with what that means for the lanes. Times are monotonic seconds.

    A peer is lost after ``misses`` intervals of ``heartbeat_s`` in which nothing came from it. Bounds:
    ``MAX_WORKERS`` and ``MAX_POOLS``; above them a Hello is refused. ``workers_lost`` counts workers that
    left with or without notice, except those that drained; ``hung`` those that were lost because a run did
    not end.
    """

    __slots__ = (
        "_backlog",
        "_fleet",
        "_heartbeat_s",
        "_misses",
        "_mover",
        "_placement",
        "_preparations",
        "_rings",
        "hung",
        "returns",
        "workers_lost",
    )

    def __init__(
        self,
        fleet: Fleet,
        *,
        mover: Mover,
        rings: Rings,
        placement: Placement,
        preparations: Preparations,
        backlog: Backlog,
        heartbeat_s: float,
        misses: int,
    ) -> None:
        self._fleet = fleet
        self._mover = mover
        self._rings = rings
        self._placement = placement
        self._preparations = preparations
        self._backlog = backlog
        self._heartbeat_s = heartbeat_s
        self._misses = misses
        self.returns = Returns()
        self.workers_lost = 0
        self.hung = 0

    def peers(self) -> Iterable[WorkerId]:
        """Everyone who is to hear the gateway's heartbeat."""
        return self._fleet.peers()

    def hello(self, peer_id: WorkerId, message: m.Hello, now: float) -> bool:
        """A peer introduces itself, perhaps again: what it had from before is void. False when there are
        too many, or it comes too often; it is not a member then."""
        fleet = self._fleet
        liveness = Liveness(now, self._heartbeat_s, self._misses)
        if message.role == "pool":
            pool_id = PoolId(peer_id)
            self.lose_pool(pool_id, now)
            if len(fleet.pools) >= MAX_POOLS or not self.returns.admit(peer_id, now):
                return False
            labels = frozenset(message.labels or ("",))
            fleet.pools[pool_id] = Pool(pool_id, liveness, labels, replaces=message.replaces)
            for worker in [each for each in fleet.workers.values() if each.pool == pool_id]:
                # a pool that was here before with other labels: they are not its panels any more
                for lane in [lane for lane in worker.lanes if lane.label not in labels]:
                    self._mover.move(lane, None, now)
            self._preparations.pool_connected(now)
        else:
            if peer_id in fleet.workers:
                self.lose(fleet.workers[peer_id], now, blame=False, left=True)
            if len(fleet.workers) >= MAX_WORKERS or not self.returns.admit(peer_id, now):
                return False
            fleet.workers[peer_id] = Worker(peer_id, PoolId(message.pool), liveness)
        for lane in self._placement.take_waiting():
            self._mover.assign(lane, now)
        return True

    def heard(self, peer_id: WorkerId, now: float) -> bool:
        """Anything at all came from a peer. False when it is not known and has to say Hello."""
        worker = self._fleet.workers.get(peer_id)
        if worker is None:
            pool = self._fleet.pools.get(PoolId(peer_id))
            if pool is None:
                return False
            pool.liveness.heard(now)
            return True
        worker.liveness.heard(now)
        if worker.cautious:
            lanes, worker.cautious = worker.cautious, []
            for lane in lanes:
                if lane.worker is worker:
                    self._mover.put(lane)
        return True

    def goodbye(self, peer_id: WorkerId, *, draining: bool, now: float) -> None:
        """A peer leaves. One that is ``draining`` still answers what it was sent."""
        worker = self._fleet.workers.get(peer_id)
        if worker is None:
            self.lose_pool(PoolId(peer_id), now)
        elif draining:
            worker.draining = True
            # the answer to its leaving: nothing more to run is sent behind this
            self._rings.send(worker, m.Drain())
            self._rings.close(worker)
            for lane in list(worker.lanes):
                if not lane.in_flight:
                    self._mover.move(lane, None, now)
        else:
            self.lose(worker, now, blame=False, left=True)

    def exited(self, pool_id: PoolId, worker_id: WorkerId, now: float) -> None:
        """A pool says that a worker has ended; it is believed about its own workers only."""
        worker = self._fleet.workers.get(worker_id)
        if worker is not None and worker.pool == pool_id:
            self.lose(worker, now, blame=True)

    def lost(self, peer_id: WorkerId, now: float) -> None:
        """A peer cannot be reached, or breaks the protocol."""
        worker = self._fleet.workers.get(peer_id)
        if worker is not None:
            self.lose(worker, now, blame=False)
        else:
            self.lose_pool(PoolId(peer_id), now)

    def replace(self, worker: Worker, now: float) -> None:
        """The worker lives and does not answer: it counts as lost, and its pool is told to kill it, which
        sees only that it is alive.
        """
        self.hung += 1
        pool = self._fleet.pools.get(worker.pool)
        if pool is not None and pool.replaces:
            pool.outbox.append(m.Replace(worker.id))
        self.lose(worker, now, blame=True)

    def lose_pool(self, pool_id: PoolId, now: float) -> None:
        """The pool, if there is one, is gone. Its workers stay until they are lost themselves."""
        pool = self._fleet.pools.pop(pool_id, None)
        if pool is not None:
            for lane in self._preparations.pool_lost(pool, now):
                self._mover.put(lane)

    def lose(self, worker: Worker, now: float, *, blame: bool, left: bool = False) -> None:
        """The worker is gone, and what it ran runs elsewhere. ``blame``: the run that it died in may be
        the reason. ``left``: it went of its own accord, or begins anew, and does not count as lost."""
        fleet = self._fleet
        del fleet.workers[worker.id]
        self.workers_lost += not left
        running = worker.running
        worker.outbox.clear()
        lanes = list(worker.lanes)
        for lane in lanes:
            self._mover.end_epoch(lane, keep_position=False)
        for lane in fleet.lanes.values():
            lane.positions.pop(worker, None)
            if lane.target is worker:
                lane.target = None
        if running is not None:
            self._interrupted(running, now - worker.running_since_s, now, blame=blame)
        for lane in lanes:
            self._mover.detach(lane)
            if lane.queue:
                self._mover.assign(lane, now)

    def _interrupted(self, run: Run, took_s: float, now: float, *, blame: bool) -> None:
        """The run, which is at the front of its lane again, was running on a worker that is gone."""
        run.interruptions += 1
        run.spent_s += took_s
        if blame:
            run.losses += 1
            run.lost_s = now
        if run.losses >= MAX_LOSSES:
            text = "the handler's process died while it ran, twice"
        elif run.interruptions >= MAX_INTERRUPTIONS or allowed_s(run) <= 0:
            text = "the processes that were to run the handler left without an answer, again and again"
        else:
            return
        self._backlog.fail(run, Reason.WORKER_LOST, text)
