"""The dispatcher: which worker runs which job, when. Pure: events and the time in, messages out.

    submit ─▶ lane of the panel ─▶ ring of its worker ─▶ drain: what to send ─▶ … ─▶ accept: commit this one now

The rules:

- A panel's jobs run in the order of ``submit``, on one worker at a time, in an *epoch* that is numbered for the panel. Up to
  ``DispatchLimits.window`` of them are in flight at once; ``accept`` gives them back in the same order.
- An epoch ends when its results can no longer be taken as they are: the worker is lost, a commit was refused, the panel
  changed from outside, the panel moves. Its jobs in flight go back to the front of the queue; what comes for them later is stale.
- A worker has about ``CREDIT_US`` of work before it and runs it in order, so the oldest job that it has not answered is the one that
  is running: it alone is watched by a deadline, and it alone is blamed when the worker dies.
- A worker's panels take turns, a job each. Panels move only between their jobs, except away from a worker that is
  stalled by another panel's long job.

Bounds: ``DispatchLimits``. Costs: everything on a job's way is O(1); ``tick`` looks at workers and at panels that are busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from panels_gateway.dispatch.catalog import Handler, HandlerCatalog, Preparation
from panels_gateway.dispatch.job import Job
from panels_gateway.dispatch.lane import Lane, PanelView
from panels_gateway.dispatch.peers import STALL_S, Pool, Worker
from panels_shared import messages as m
from panels_shared.errors import PanelsError
from panels_shared.limits import MIB
from panels_shared.liveness import Liveness
from panels_shared.messages import PoolId, Refusal, ToWorker, WorkerId
from panels_shared.outcome import Reason

#: Seconds after its deadline at which a job that is not answered shows that its worker hangs.
GRACE_S: Final = 1.0
#: Seconds after which nothing is expected any more of a job that was revoked when it may have been running.
REVOKED_S: Final = 31.0
#: How often panels are moved from loaded to idle workers, and how long a panel then stays, in seconds.
REBALANCE_S: Final = 0.1
SETTLE_S: Final = 1.0
#: A worker with less than this share of another's work may be given some of its panels.
IDLE_SHARE: Final = 0.25
#: Seconds that a handler may wait for a pool to prepare it, and a pool may take for it.
NO_POOL_S: Final = 10.0
PREPARE_S: Final = 15.0
#: Workers that may die while running a job, and times a worker may lack what it needs.
MAX_LOSSES: Final = 2
MAX_MISSES: Final = 8
#: Peers, security limits.
MAX_WORKERS: Final = 1_024
MAX_POOLS: Final = 256

_NOT_REMEMBERED: Final = ("unavailable", "internal")

Failure = tuple[Job, Reason, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLimits:
    """Bounds of what waits: jobs per panel and in all, bytes of their arguments, and jobs of one panel in flight."""

    queue_per_panel: int = 1_024
    queue_total: int = 16_384
    queue_bytes: int = 64 * MIB
    window: int = 64


class OverloadedError(PanelsError):
    """A queue is full. ``scope`` says which, ``retry_after_ms`` when to try again."""

    def __init__(self, scope: str, retry_after_ms: int) -> None:
        super().__init__(f"the queue of the {scope} is full")
        self.scope = scope
        self.retry_after_ms = retry_after_ms


class Dispatcher:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(
        self, limits: DispatchLimits | None = None, *, heartbeat_s: float = 0.5, misses: int = 4
    ) -> None:
        self.limits = limits or DispatchLimits()
        self.catalog = HandlerCatalog()
        self._heartbeat_s = heartbeat_s
        self._misses = misses
        self._lanes: dict[int, Lane] = {}
        self._handlers: dict[int, Sequence[Handler]] = {}
        self._workers: dict[WorkerId, Worker] = {}
        self._pools: dict[PoolId, Pool] = {}
        self._dirty: list[Worker] = []
        self._unassigned: deque[Lane] = deque()
        self._blocked: dict[tuple[PoolId, bytes], list[Lane]] = {}
        self._wanted: dict[bytes, tuple[Handler, float]] = {}
        self._answers: list[tuple[bytes, Refusal | None]] = []
        self._failures: list[Failure] = []
        self._jobs = 0
        self._bytes = 0
        self._rebalanced_s = float("-inf")
        self._sendings = 0
        self._counts = {
            "accepted": 0,
            "stale": 0,
            "forged": 0,
            "missing": 0,
            "epochs": 0,
            "snapshots": 0,
            "deltas": 0,
            "workers_lost": 0,
            "moves": 0,
        }

    # -- panels ------------------------------------------------------------------------------------------

    def add_panel(self, panel: PanelView, tools: Sequence[m.Tool], handlers: Sequence[Handler]) -> None:
        """Begins to dispatch for ``panel``."""
        previous = self._lanes.get(panel.key)
        lane = Lane(panel, tuple(tool.tool for tool in tools))
        if previous is not None:
            lane.epoch = previous.epoch
        self._lanes[panel.key] = lane
        self._handlers[panel.key] = list(handlers)
        self.catalog.acquire(handlers)

    def remove_panel(self, panel: PanelView) -> list[Job]:
        """Ends dispatching for ``panel``; its jobs, in order, which are the caller's to answer or to submit again."""
        lane = self._lanes.pop(panel.key)
        self.catalog.release(self._handlers.pop(panel.key))
        self._end_epoch(lane)
        jobs = list(lane.queue)
        for job in jobs:
            self._forget_job(job)
        worker = lane.worker
        if worker is not None:
            worker.queued -= len(jobs)
        lane.queue.clear()
        for holder in {*lane.positions, *([worker] if worker is not None else [])}:
            holder.outbox.append(m.Forget(lane.key, lane.tools))
            holder.tools.difference_update(lane.tools)
            self._mark(holder)
        self._detach(lane)
        return jobs

    def invalidate(self, panel: PanelView) -> None:
        """The panel changed from outside: what is in flight runs again on the new state."""
        lane = self._lanes[panel.key]
        self._end_epoch(lane)
        self._schedule(lane)

    def restart(self, job: Job) -> None:
        """The commit of ``job``, just accepted, was refused: the worker has to undo it."""
        lane = job.lane
        if lane is None or self._lanes.get(lane.key) is not lane:
            return
        if lane.open:
            lane.committed = job.index - 1
        elif (worker := job.worker) is not None and (position := lane.positions.get(worker)) is not None:
            lane.positions[worker] = replace(position, index=min(position.index, job.index - 1))
        self._end_epoch(lane)
        self._schedule(lane)

    # -- jobs --------------------------------------------------------------------------------------------

    def submit(self, job: Job, now: float) -> None:
        """Queues ``job`` behind all others of its panel. Raises ``OverloadedError``, and keeps nothing then."""
        lane = self._lanes[job.panel.key]
        limits = self.limits
        waiting = len(lane.queue) + len(lane.in_flight)
        if waiting >= limits.queue_per_panel:
            raise OverloadedError("panel", self._retry_after_ms(lane, waiting))
        size = len(job.args)
        if self._jobs >= limits.queue_total or self._bytes + size > limits.queue_bytes:
            raise OverloadedError("gateway", 500)
        self._jobs += 1
        self._bytes += size
        job.lane = lane
        lane.queue.append(job)
        worker = lane.worker
        if worker is None:
            worker = self._assign(lane, now)
            if worker is None:
                return
        else:
            worker.queued += 1
        if not lane.scheduled:
            self._schedule(lane)

    def accept(self, worker_id: WorkerId, result: m.Result, now: float) -> Job | None:
        """The job that ``result`` ends, for the caller to commit and answer now; None when it is stale or forged."""
        worker = self._workers.get(worker_id)
        if worker is None:
            self._counts["stale"] += 1
            return None
        job = self._answered(worker, result.job, now)
        if job is None:
            return None
        usage = result.outcome.usage
        worker.observe(min(max(usage.execution_us, 0), 60_000_000))
        lane = job.lane
        assert lane is not None
        lane.in_flight.popleft()
        lane.committed = job.index
        # the version before this job's commit: see Position
        lane.seq = lane.panel.seq
        self._forget_job(job)
        self._counts["accepted"] += 1
        if not lane.in_flight:
            if lane.target is not None or worker.draining:
                self._move(lane, lane.target, now)
            elif not lane.queue:
                worker.busy.pop(lane, None)
        if lane.queue and not lane.scheduled:
            self._schedule(lane)
        if worker.ring and not worker.dirty:
            self._mark(worker)
        return job

    def missing(self, worker_id: WorkerId, message: m.Missing, now: float) -> None:
        """A worker did not run a job for want of something: it gets that, and the job again."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return
        job = self._answered(worker, message.job, now)
        if job is None:
            return
        self._counts["missing"] += 1
        lane = job.lane
        assert lane is not None
        if message.what == "tool":
            worker.tools.discard(job.tool.tool)
        elif message.what == "artifact":
            pool = self._pools.get(PoolId(worker.pool))
            if pool is not None:
                pool.prepared.discard(job.tool.digest)
        self._end_epoch(lane, keep_position=message.what != "replica")
        job.misses += 1
        if job.misses > MAX_MISSES:
            lane.queue.popleft()
            worker.queued -= 1
            self._fail(
                job,
                Reason.WORKER_LOST,
                "no worker could load what this tool needs; the server's log says why",
            )
        self._schedule(lane)

    def _answered(self, worker: Worker, number: int, now: float) -> Job | None:
        """Takes the job off ``worker``'s list, with the revoked ones before it."""
        outstanding = worker.outstanding
        if number not in outstanding:
            self._counts["stale"] += 1
            return None
        for first in outstanding:
            if first == number:
                break
            if outstanding[first] is not None:
                # it must answer in order: this one forges, or has lost its place
                self._counts["forged"] += 1
                return None
        while True:
            first = next(iter(outstanding))
            job = outstanding.pop(first)
            if first == number:
                break
        worker.running_since_s = now
        if job is None:
            self._counts["stale"] += 1
            if worker.ring:
                self._mark(worker)
        return job

    # -- handlers ----------------------------------------------------------------------------------------

    def prepare(self, handler: Handler, now: float) -> Refusal | Preparation:
        """Whether ``handler`` can be run. PENDING is followed by its digest in ``take_prepared``."""
        refusal = self.catalog.refusal(handler.digest)
        if refusal is not None:
            return refusal
        if any(handler.digest in pool.prepared for pool in self._pools.values()):
            return Preparation.READY
        self._wanted.setdefault(handler.digest, (handler, now))
        self._request(handler, now)
        return Preparation.PENDING

    def prepared(self, pool_id: PoolId, message: m.Prepared, now: float) -> None:
        """A pool has prepared a handler, or refuses it."""
        pool = self._pools.get(pool_id)
        digest = message.digest
        if pool is None or pool.preparing.pop(digest, None) is None:
            self._counts["forged"] += 1
            return
        pool.liveness.heard(now)
        refusal = message.refusal
        if refusal is None:
            pool.prepared.add(digest)
        elif refusal.code not in _NOT_REMEMBERED:
            self.catalog.refuse(digest, refusal)
        if self._wanted.pop(digest, None) is not None:
            self._answers.append((digest, refusal))
        for lane in self._blocked.pop((pool_id, digest), ()):
            if self._lanes.get(lane.key) is not lane:
                continue
            if refusal is not None and lane.queue and lane.queue[0].tool.digest == digest:
                job = lane.queue.popleft()
                if lane.worker is not None:
                    lane.worker.queued -= 1
                self._fail(job, Reason.HANDLER_ERROR, f"the handler was refused: {refusal.message}")
            self._schedule(lane)

    def take_prepared(self) -> list[tuple[bytes, Refusal | None]]:
        """Handlers whose preparation has ended since the last call: (digest, None for prepared)."""
        answers, self._answers = self._answers, []
        return answers

    def take_failures(self) -> list[Failure]:
        """Jobs that no worker will answer, for the caller to answer."""
        failures, self._failures = self._failures, []
        return failures

    def _request(self, handler: Handler, now: float) -> None:
        digest = handler.digest
        pools = self._pools.values()
        if not pools or any(digest in pool.preparing for pool in pools):
            return
        self._request_from(min(pools, key=lambda pool: len(pool.preparing)), handler, now)

    def _request_from(self, pool: Pool, handler: Handler, now: float) -> None:
        pool.preparing[handler.digest] = now
        pool.outbox.append(m.Prepare(handler.digest, handler.language, handler.entry, handler.source))

    # -- peers -------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether a worker can run a job: one is there, and its pool, which prepares handlers."""
        return any(not worker.draining and worker.pool in self._pools for worker in self._workers.values())

    def hello(self, peer_id: WorkerId, message: m.Hello, now: float) -> bool:
        """A peer introduces itself, perhaps again; False when there are too many."""
        liveness = Liveness(now, self._heartbeat_s, self._misses)
        if message.role == "pool":
            pool_id = PoolId(peer_id)
            if pool_id not in self._pools and len(self._pools) >= MAX_POOLS:
                return False
            self._pool_gone(pool_id, now)
            pool = self._pools[pool_id] = Pool(pool_id, liveness)
            for worker in self._workers.values():
                if worker.pool == pool_id:
                    pool.workers.add(worker)
            for handler, _ in list(self._wanted.values()):
                self._request(handler, now)
            self._assign_waiting(now)
            return True
        if peer_id in self._workers:
            # it introduces itself again, to a gateway that has just started for one: nothing is lost
            self._lose(self._workers[peer_id], now, blame=False, lost=False)
        elif len(self._workers) >= MAX_WORKERS:
            return False
        worker = self._workers[peer_id] = Worker(peer_id, PoolId(message.pool), liveness)
        if (owner := self._pools.get(worker.pool)) is not None:
            owner.workers.add(worker)
        self._assign_waiting(now)
        return True

    def heard(self, peer_id: WorkerId, now: float) -> bool:
        """Anything came from a peer; False when it is not known and has to say Hello."""
        worker = self._workers.get(peer_id)
        if worker is None:
            pool = self._pools.get(PoolId(peer_id))
            if pool is None:
                return False
            pool.liveness.heard(now)
            return True
        worker.liveness.heard(now)
        if worker.cautious:
            lanes, worker.cautious = worker.cautious, []
            for lane in lanes:
                if lane.worker is worker and self._lanes.get(lane.key) is lane:
                    self._schedule(lane)
        return True

    def goodbye(self, peer_id: WorkerId, *, draining: bool, now: float) -> None:
        """A peer leaves; one that is ``draining`` still answers what it was sent."""
        worker = self._workers.get(peer_id)
        if worker is None:
            self._pool_gone(PoolId(peer_id), now)
        elif draining:
            worker.draining = True
            # the answer to its leaving: behind this it is sent nothing more to run
            worker.outbox.append(m.Drain())
            self._mark(worker)
            for lane in worker.ring:
                lane.scheduled = False
            worker.ring.clear()
            for lane in list(worker.lanes):
                if not lane.in_flight:
                    self._move(lane, None, now)
        else:
            self._lose(worker, now, blame=False, lost=False)

    def exited(self, pool_id: PoolId, worker_id: WorkerId, now: float) -> None:
        """A pool says that a worker of its own has ended."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.pool == pool_id:
            self._lose(worker, now, blame=True)

    def lost(self, peer_id: WorkerId, now: float) -> None:
        """A peer cannot be reached, or breaks the protocol."""
        worker = self._workers.get(peer_id)
        if worker is not None:
            self._lose(worker, now, blame=False)
        else:
            self._pool_gone(PoolId(peer_id), now)

    def _pool_gone(self, pool_id: PoolId, now: float) -> None:
        pool = self._pools.pop(pool_id, None)
        if pool is None:
            return
        for digest in pool.preparing:
            if (wanted := self._wanted.get(digest)) is not None:
                self._request(wanted[0], now)
        for key in [key for key in self._blocked if key[0] == pool_id]:
            for lane in self._blocked.pop(key):
                if self._lanes.get(lane.key) is lane:
                    self._schedule(lane)

    def _lose(self, worker: Worker, now: float, *, blame: bool, lost: bool = True) -> None:
        del self._workers[worker.id]
        self._counts["workers_lost"] += lost
        if (pool := self._pools.get(worker.pool)) is not None:
            pool.workers.discard(worker)
        running = next(iter(worker.outstanding.values()), None)
        worker.outbox.clear()
        lanes = list(worker.lanes)
        for lane in lanes:
            self._end_epoch(lane, keep_position=False)
        for lane in self._lanes.values():
            lane.positions.pop(worker, None)
            if lane.target is worker:
                lane.target = None
        if running is not None and blame:
            running.losses += 1
            running.lost_s = now
            lane_of = running.lane
            if running.losses >= MAX_LOSSES and lane_of is not None:
                lane_of.queue.remove(running)
                worker.queued -= 1
                self._fail(running, Reason.WORKER_LOST, "the handler's process died while it ran, twice")
        for lane in lanes:
            self._detach(lane)
            if lane.queue:
                self._assign(lane, now)

    # -- time --------------------------------------------------------------------------------------------

    def next_tick_s(self) -> float:
        """In how many seconds ``tick`` is wanted again."""
        if any(worker.outstanding for worker in self._workers.values()):
            return STALL_S
        return self._heartbeat_s / 2

    def tick(self, now: float) -> None:
        """Finds peers that are silent or hang, panels that are stalled, handlers that wait in vain; balances the load."""
        for pool in [pool for pool in self._pools.values() if pool.liveness.lost(now)]:
            self._pool_gone(pool.id, now)
        for worker in list(self._workers.values()):
            if worker.liveness.lost(now):
                self._lose(worker, now, blame=True)
            elif worker.outstanding:
                self._watch(worker, now)
        self._expire_preparations(now)
        if now - self._rebalanced_s >= REBALANCE_S:
            self._rebalanced_s = now
            self._rebalance(now)

    def _watch(self, worker: Worker, now: float) -> None:
        number, running = next(iter(worker.outstanding.items()))
        elapsed = now - worker.running_since_s
        if running is None and elapsed > REVOKED_S:
            # it had not begun when it was revoked, so nothing will come; if it hangs after all, the next job shows it
            del worker.outstanding[number]
            worker.running_since_s = now
            self._mark(worker)
        elif running is not None and elapsed > running.tool.limits[1] / 1_000 + GRACE_S:
            self._lose(worker, now, blame=True)
        elif worker.stalled(now):
            self._relieve(worker, running, now)

    def _relieve(self, worker: Worker, running: Job | None, now: float) -> None:
        """Moves panels away that wait behind another's long job, to workers that have room."""
        stuck = [lane for lane in worker.busy if running is None or lane is not running.lane]
        for lane in stuck:
            other = self._idlest(lane, exclude=worker, now=now)
            if other is None or len(other.outstanding) >= other.credit or other.stalled(now):
                return
            self._end_epoch(lane)
            self._move(lane, other, now)

    def _rebalance(self, now: float) -> None:
        ready = [
            worker for worker in self._workers.values() if not worker.draining and worker.pool in self._pools
        ]
        if len(ready) < 2:
            return
        low = min(ready, key=lambda worker: worker.backlog_us)
        high = max(ready, key=lambda worker: worker.backlog_us)
        movable = len(high.busy) - len(low.busy)
        if movable < 2 or low.backlog_us > IDLE_SHARE * high.backlog_us:
            return
        count = movable // 2
        for lane in list(high.busy):
            if count <= 0:
                break
            if lane.target is not None or now - lane.moved_s < SETTLE_S:
                continue
            count -= 1
            if lane.in_flight:
                lane.target = low
                lane.moved_s = now
            else:
                self._move(lane, low, now)

    def _expire_preparations(self, now: float) -> None:
        for digest, (_, since) in list(self._wanted.items()):
            if not self._pools and now - since > NO_POOL_S:
                del self._wanted[digest]
                self._answers.append(
                    (digest, Refusal("unavailable", "no worker is connected that could compile it"))
                )
        for pool in self._pools.values():
            for digest, since in list(pool.preparing.items()):
                if now - since > PREPARE_S:
                    del pool.preparing[digest]
                    if self._wanted.pop(digest, None) is not None:
                        self._answers.append(
                            (digest, Refusal("unavailable", "the worker did not compile it in time"))
                        )
                    for lane in self._blocked.pop((pool.id, digest), ()):
                        self._schedule(lane)

    # -- what to send ------------------------------------------------------------------------------------

    def drain(self, now: float) -> list[tuple[WorkerId, list[ToWorker]]]:
        """Everything to send now, one list for each peer."""
        sends: list[tuple[WorkerId, list[ToWorker]]] = []
        while self._dirty:
            workers, self._dirty = self._dirty, []
            for worker in workers:
                worker.dirty = False
                if self._workers.get(worker.id) is not worker:
                    continue
                messages = worker.outbox
                worker.outbox = []
                if worker.ring:
                    self._fill(worker, messages, now)
                if messages:
                    sends.append((worker.id, messages))
        for pool in self._pools.values():
            if pool.outbox:
                sends.append((WorkerId(pool.id), pool.outbox))
                pool.outbox = []
        return sends

    def _fill(self, worker: Worker, messages: list[ToWorker], now: float) -> None:
        """Takes jobs from the worker's ring, a panel each in turn, as long as there is credit."""
        ring = worker.ring
        outstanding = worker.outstanding
        room = worker.credit - len(outstanding)
        if not outstanding:
            worker.running_since_s = now
        pool = self._pools.get(worker.pool)
        window = self.limits.window
        while ring and room > 0:
            lane = ring.popleft()
            lane.scheduled = False
            if not lane.queue or lane.target is not None or len(lane.in_flight) >= window:
                continue
            job = lane.queue[0]
            tool = job.tool
            if pool is None or tool.digest not in pool.prepared:
                self._block(lane, pool, tool.digest, now)
                continue
            if job.losses and worker.liveness.last_heard_s <= job.lost_s:
                # workers may have died together: only one that is known to live may be the next to die of this job
                worker.cautious.append(lane)
                continue
            lane.queue.popleft()
            worker.queued -= 1
            if not lane.open:
                self._begin_epoch(lane, worker, messages)
            number = tool.tool
            if number not in worker.tools:
                worker.tools.add(number)
                messages.append(tool)
            index = job.index = lane.next_index
            lane.next_index = index + 1
            job.sent_s = now
            job.worker = worker
            # a number for each sending: what an earlier epoch still answers must not pass for an answer to this one
            self._sendings += 1
            job.id = m.JobId(self._sendings)
            messages.append(
                m.Job(
                    job.id,
                    lane.key,
                    lane.epoch,
                    index,
                    lane.committed,
                    number,
                    job.args,
                    job.scope,
                    job.now_ms,
                    job.seed,
                )
            )
            outstanding[job.id] = job
            lane.in_flight.append(job)
            room -= 1
            if lane.queue and len(lane.in_flight) < window:
                lane.scheduled = True
                ring.append(lane)

    def _begin_epoch(self, lane: Lane, worker: Worker, messages: list[ToWorker]) -> None:
        lane.epoch += 1
        lane.open = True
        lane.next_index = 0
        lane.committed = -1
        panel = lane.panel
        lane.seq = panel.seq
        self._counts["epochs"] += 1
        position = lane.positions.get(worker)
        changes = panel.changes_since(position.seq) if position is not None else None
        if position is not None and changes is not None:
            messages.append(m.Delta(lane.key, lane.epoch, position.epoch, position.index, changes))
            self._counts["deltas"] += 1
        else:
            messages.append(m.Snapshot(lane.key, lane.epoch, dict(panel.state)))
            self._counts["snapshots"] += 1

    def _end_epoch(self, lane: Lane, *, keep_position: bool = True) -> None:
        """Puts what is in flight back to the front of the queue, and makes the worker stop at what it has begun."""
        worker = lane.worker
        if worker is None:
            return
        if not lane.open:
            if not keep_position:
                lane.positions.pop(worker, None)
            return
        lane.open = False
        if keep_position:
            lane.remember(worker)
        else:
            lane.positions.pop(worker, None)
        if lane.in_flight:
            worker.outbox.append(m.Revoke(lane.key, lane.epoch))
            self._mark(worker)
            outstanding = worker.outstanding
            running = next(iter(outstanding), None)
            for job in reversed(lane.in_flight):
                if job.id == running:
                    outstanding[job.id] = None
                else:
                    outstanding.pop(job.id, None)
                lane.queue.appendleft(job)
            worker.queued += len(lane.in_flight)
            lane.in_flight.clear()

    def _schedule(self, lane: Lane) -> None:
        """Puts the lane into its worker's ring, if it has a job that may be sent."""
        worker = lane.worker
        if worker is None:
            if lane.queue and not lane.scheduled:
                lane.scheduled = True
                self._unassigned.append(lane)
            return
        if not lane.queue:
            if not lane.in_flight:
                worker.busy.pop(lane, None)
            return
        if lane not in worker.busy:
            worker.busy[lane] = None
        if worker.draining or lane.target is not None:
            # it leaves as soon as nothing of it is in flight, which is now or in ``accept``
            if not lane.in_flight:
                self._move(lane, lane.target, lane.moved_s)
            return
        if not lane.scheduled and len(lane.in_flight) < self.limits.window:
            lane.scheduled = True
            worker.ring.append(lane)
            if not worker.dirty and len(worker.outstanding) < worker.credit:
                self._mark(worker)

    def _block(self, lane: Lane, pool: Pool | None, digest: bytes, now: float) -> None:
        """Lets the lane wait until its worker's pool has prepared ``digest``."""
        if pool is None:
            self._move(lane, None, now)
            return
        self._blocked.setdefault((pool.id, digest), []).append(lane)
        if digest not in pool.preparing:
            handler = self.catalog.get(digest)
            if handler is not None:
                self._request_from(pool, handler, now)

    # -- which worker ------------------------------------------------------------------------------------

    def _assign(self, lane: Lane, now: float) -> Worker | None:
        """Gives the lane to the worker with the least to do; it waits when there is none."""
        worker = self._idlest(lane, exclude=None, now=now)
        if worker is None:
            self._schedule(lane)
            return None
        self._attach(lane, worker, now)
        return worker

    def _idlest(self, lane: Lane, exclude: Worker | None, now: float) -> Worker | None:
        best: Worker | None = None
        least = (True, float("inf"), 0)
        for worker in self._workers.values():
            if worker.draining or worker is exclude or worker.pool not in self._pools:
                continue
            load = (worker.stalled(now), worker.backlog_us, len(worker.busy) + len(worker.lanes) // 64)
            # a worker that has the replica wins a tie
            if load < least or (load == least and worker in lane.positions):
                best, least = worker, load
        return best

    def _assign_waiting(self, now: float) -> None:
        lanes, self._unassigned = self._unassigned, deque()
        for lane in lanes:
            lane.scheduled = False
            if self._lanes.get(lane.key) is lane and lane.worker is None and lane.queue:
                self._assign(lane, now)

    def _attach(self, lane: Lane, worker: Worker, now: float) -> None:
        lane.worker = worker
        lane.moved_s = now
        worker.lanes.add(lane)
        worker.queued += len(lane.queue)
        self._schedule(lane)

    def _detach(self, lane: Lane) -> None:
        """Takes the lane, which has nothing in flight, from its worker."""
        worker = lane.worker
        lane.target = None
        if worker is None:
            return
        self._end_epoch(lane)
        worker.lanes.discard(lane)
        worker.busy.pop(lane, None)
        worker.queued -= len(lane.queue)
        if lane.scheduled:
            lane.scheduled = False
            worker.ring.remove(lane)
        for waiting in self._blocked.values():
            if lane in waiting:
                waiting.remove(lane)
        lane.worker = None

    def _move(self, lane: Lane, target: Worker | None, now: float) -> None:
        """Moves a lane with nothing in flight to ``target``, or to whichever worker is best when it has jobs."""
        self._counts["moves"] += 1
        self._detach(lane)
        if target is not None and self._workers.get(target.id) is target and not target.draining:
            self._attach(lane, target, now)
        elif lane.queue:
            self._assign(lane, now)

    # -- bookkeeping -------------------------------------------------------------------------------------

    def _mark(self, worker: Worker) -> None:
        if not worker.dirty:
            worker.dirty = True
            self._dirty.append(worker)

    def _forget_job(self, job: Job) -> None:
        self._jobs -= 1
        self._bytes -= len(job.args)

    def _fail(self, job: Job, reason: Reason, message: str) -> None:
        self._forget_job(job)
        self._failures.append((job, reason, message))

    def _retry_after_ms(self, lane: Lane, waiting: int) -> int:
        average_us = lane.worker.average_us if lane.worker is not None else 1_000.0
        return min(10_000, max(10, int(waiting * average_us / 1_000)))

    def peers(self) -> Iterable[WorkerId]:
        """Everyone who is to hear the gateway's heartbeat."""
        yield from self._workers
        yield from (WorkerId(pool_id) for pool_id in self._pools)

    def stats(self) -> dict[str, int]:
        """Counts for ``metrics``."""
        return {
            **self._counts,
            "jobs": self._jobs,
            "job_bytes": self._bytes,
            "in_flight": sum(len(worker.outstanding) for worker in self._workers.values()),
            "workers": len(self._workers),
            "pools": len(self._pools),
            "panels": len(self._lanes),
        }
