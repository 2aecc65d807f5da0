"""The dispatcher: which worker runs which trigger, and when. Pure: events and the time in, messages out.

    offer ─▶ lane of the panel ─▶ ring of its worker ─▶ drain: what to send ─▶ accept ─▶ confirm or refuse

The rules:

- The triggers of a panel run in the order of ``offer``, on one worker at a time. Up to
  ``DispatchLimits.window`` of them are in flight at once, and ``accept`` gives them back in the same order.
- They run in *epochs* (see ``epochs``). An epoch ends when its results can no longer be taken as they are:
  the worker is lost, a commit was refused, the panel changed from outside, the panel moves. Its runs in
  flight go back to the front of the queue, and what comes for them later is stale.
- A worker has about ``CREDIT_US`` of work ahead of it and runs it in order, so the oldest run that it has not
  answered is the one that is running: it alone has a deadline, and it alone is blamed when the worker dies
  (see ``watch``).
- The panels of a worker take turns, a run each (see ``rings``). They move to another worker only between
  their runs, except away from a worker that is stalled by another panel's long run (see ``placement``).

The dispatcher is the front of those modules. They share the ``Fleet`` and return what they decide; the
dispatcher, ``mover`` and ``members`` carry it out. No module knows one that is above it.

Costs: everything on a trigger's way is O(1), apart from the choice of a worker for a panel that has none,
which is O(workers). ``tick`` looks at all workers and at the lanes that are busy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from panels_gateway.dispatch import allowance
from panels_gateway.dispatch.backlog import Backlog
from panels_gateway.dispatch.catalog import Handler, HandlerCatalog
from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import STALL_S, Fleet, Lane, Run, Unanswerable, Worker
from panels_gateway.dispatch.limits import DispatchLimits, OverloadedError
from panels_gateway.dispatch.members import Members
from panels_gateway.dispatch.mover import Mover
from panels_gateway.dispatch.overdue import Overdue
from panels_gateway.dispatch.placement import Placement
from panels_gateway.dispatch.preparations import Preparations
from panels_gateway.dispatch.rings import Rings
from panels_gateway.dispatch.sender import Sender
from panels_gateway.dispatch.watch import Verdict, allowed_s, watch
from panels_gateway.panels.panel import OWN_PANEL, Panel
from panels_gateway.panels.trigger import Trigger
from panels_shared import messages as m
from panels_shared.messages import PoolId, ToWorker, WorkerId
from panels_shared.outcome import Reason

__all__ = ["DispatchLimits", "Dispatcher", "OverloadedError"]

#: How often something may be missing where a trigger is to run before it is given up.
MAX_MISSES: Final = 8

_COUNTED: Final = ("accepted", "stale", "forged", "missing")


class Dispatcher:
    """See the module's docstring. One thread; all times are monotonic seconds and never go back.

    Obligations of the caller:

    - Each trigger that ``offer`` takes comes back once: from ``accept``, ``take_failures``, ``overdue``,
      ``take_outdated``, ``withdraw`` or ``remove_panel``.
    - A run from ``accept`` is passed to ``confirm`` or to ``refuse``, once, and the runs of a panel in the
      order of ``accept``. Its commit, if it has one, raises the panel's version before the next call of any
      method. Other calls may come between that and ``confirm``. After ``refuse``, the runs of that panel
      which were accepted later must be refused as well, since they ran on what was refused.
    - After every call ``drain`` comes soon, and each of its lists is sent in order, or the peer is reported
      ``lost``. ``tick`` comes at least as often as ``next_tick_s`` says.

    Bounds: ``DispatchLimits`` and those of ``members``. ``preparations`` belongs to whoever makes panels.
    """

    def __init__(
        self, limits: DispatchLimits | None = None, *, heartbeat_s: float = 0.5, misses: int = 4
    ) -> None:
        """A peer is lost after ``misses`` intervals of ``heartbeat_s`` in which nothing came from it."""
        self.limits = limits or DispatchLimits()
        self.catalog = HandlerCatalog()
        self._heartbeat_s = heartbeat_s
        self._handlers: dict[int, Sequence[Handler]] = {}
        self._fleet = Fleet()
        self.preparations = Preparations(self._fleet, self.catalog, self.limits.compile)
        self._backlog = Backlog(self.limits)
        self._rings = Rings(self.limits.window)
        self._epochs = Epochs()
        self._placement = Placement(self._fleet)
        self._sender = Sender(self._fleet, self._epochs, self.limits.window)
        self._mover = Mover(self._fleet, self._rings, self._epochs, self._placement, self.preparations)
        self._members = Members(
            self._fleet,
            mover=self._mover,
            rings=self._rings,
            placement=self._placement,
            preparations=self.preparations,
            backlog=self._backlog,
            heartbeat_s=heartbeat_s,
            misses=misses,
        )
        self.overdue = Overdue(
            self._fleet, self._mover, self._placement, self._backlog, self.limits.queue_timeout_s
        )
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._outdated: list[Trigger] = []

    # -- panels --------------------------------------------------------------------------------------

    def add_panel(
        self, panel: Panel, tools: Sequence[m.Tool], handlers: Sequence[Handler], *, label: str = ""
    ) -> None:
        """Begins to dispatch for ``panel``, which is not dispatched for, and keeps its handlers' sources.

        It runs on workers of pools with ``label``, "" for those without any.
        """
        self._fleet.lanes[panel.key] = Lane(panel, tuple(tool.tool for tool in tools), label)
        self._handlers[panel.key] = list(handlers)
        self.catalog.acquire(handlers)

    def relabel(self, panel: Panel, label: str, now: float) -> None:
        """From now on ``panel``, which has nothing waiting or in flight, runs on workers of pools with
        ``label``.
        """
        lane = self._fleet.lanes[panel.key]
        assert not self.busy(panel), "only an idle panel changes its label"
        lane.label = label
        self._mover.move(lane, None, now)

    def label_served(self) -> str:
        """A label whose panels can be run: "" where that is one, else the first by name; "" for none."""
        pools = self._fleet.pools
        labels = {label for worker in self._fleet.able() for label in pools[worker.pool].labels}
        return min(labels, default="")

    def remove_panel(self, panel: Panel) -> list[Trigger]:
        """Ends dispatching for ``panel``. Returns its triggers, in order: the caller answers or offers them
        again.

        Runs that were accepted are not among them; it does no harm to confirm or refuse those afterwards.
        """
        lane = self._fleet.lanes.pop(panel.key)
        self.catalog.release(self._handlers.pop(panel.key))
        self._mover.end_epoch(lane)
        triggers = self._take_queue(lane)
        worker = lane.worker
        holders: dict[Worker, None] = dict.fromkeys(lane.positions)
        if worker is not None:
            holders[worker] = None
        for holder in holders:
            holder.tools.difference_update(lane.tools)
            self._rings.send(holder, m.Forget(lane.key, lane.tools))
        self._mover.detach(lane)
        return triggers

    def withdraw(self, panel: Panel) -> list[Trigger]:
        """Takes back everything of ``panel`` that was not accepted, in order: the caller answers or offers it
        again.
        """
        lane = self._fleet.lanes[panel.key]
        self._mover.end_epoch(lane)
        triggers = self._take_queue(lane)
        self._mover.put(lane)
        return triggers

    def _take_queue(self, lane: Lane) -> list[Trigger]:
        triggers = [run.trigger for run in lane.queue]
        for trigger in triggers:
            self._backlog.release(len(trigger.args))
        if lane.worker is not None:
            lane.worker.queued -= len(triggers)
        lane.queue.clear()
        return triggers

    def invalidate(self, panel: Panel) -> None:
        """The panel changed otherwise than by a run's commit: what is in flight runs again, on the new
        state."""
        lane = self._fleet.lanes[panel.key]
        self._mover.end_epoch(lane)
        self._mover.put(lane)

    def busy(self, panel: Panel) -> bool:
        """Whether a trigger of ``panel``, which is dispatched for, waits or is in flight."""
        lane = self._fleet.lanes[panel.key]
        return bool(lane.queue or lane.in_flight)

    # -- triggers ------------------------------------------------------------------------------------

    def offer(self, trigger: Trigger, now: float) -> None:
        """Queues ``trigger`` behind all others of its panel, which is dispatched for.

        Raises ``OverloadedError``, and keeps nothing then.
        """
        lane = self._fleet.lanes[trigger.panel.key]
        self._backlog.admit(lane, len(trigger.args))
        lane.queue.append(Run(trigger, lane, trigger.submitted_s))
        worker = lane.worker
        if worker is None:
            self._mover.assign(lane, now)
            return
        worker.queued += 1
        if not lane.scheduled:
            self._mover.put(lane)

    def reserve(self, trigger: Trigger) -> None:
        """Counts ``trigger``, which the caller keeps and offers later, towards the queue's bounds.

        Raises ``OverloadedError``, and counts nothing then.
        """
        self._backlog.reserve(len(trigger.args))

    def unreserve(self, trigger: Trigger) -> None:
        """Forgets a trigger that was reserved: it is answered, or offered at once."""
        self._backlog.unreserve(len(trigger.args))

    def accept(self, worker_id: WorkerId, result: m.Result, now: float) -> Run | None:
        """The run that ``result`` ends, for the caller to commit now and then to ``confirm`` or ``refuse``.

        None when the result is stale or forged; nothing is to be done then.
        """
        worker = self._fleet.workers.get(worker_id)
        if worker is None:
            self._counts["stale"] += 1
            return None
        run = worker.answered(result.job, now)
        if not isinstance(run, Run):
            self._unanswerable(worker, run)
            return None
        worker.observe(result.outcome.usage.execution_us)
        lane = run.lane
        lane.in_flight.popleft()
        run.seq = lane.panel.seq
        self._backlog.release(len(run.trigger.args))
        self._counts["accepted"] += 1
        if not lane.in_flight:
            if lane.target is not None or worker.draining:
                self._mover.move(lane, lane.target, now)
            elif not lane.queue:
                worker.busy.pop(lane, None)
        if lane.queue and not lane.scheduled:
            self._mover.put(lane)
        if worker.ring and not worker.dirty:
            self._rings.mark(worker)
        return run

    def awaits(self, worker_id: WorkerId, number: int) -> m.Tool | None:
        """The tool of the run that the worker was sent under this number and has not answered; None when
        there is none, so that nobody would look at an answer."""
        worker = self._fleet.workers.get(worker_id)
        run = worker.outstanding.get(number) if worker is not None else None
        return run.trigger.tool if run is not None else None

    def unread(self, worker_id: WorkerId, number: int, now: float) -> None:
        """The worker answered a run that ``awaits`` says nobody waits for."""
        worker = self._fleet.workers.get(worker_id)
        if worker is None:
            self._counts["stale"] += 1
            return
        why = worker.answered(number, now)
        assert isinstance(why, Unanswerable), "expected a run that nobody waits for"
        self._unanswerable(worker, why)

    def frame_bytes(self, peer_id: WorkerId) -> int:
        """The largest frame that the peer may send now, by what it was asked; see ``allowance``."""
        worker = self._fleet.workers.get(peer_id)
        if worker is not None:
            return allowance.worker_bytes(worker)
        pool = self._fleet.pools.get(PoolId(peer_id))
        return allowance.UNASKED_BYTES if pool is None else allowance.pool_bytes(pool)

    def confirm(self, run: Run) -> None:
        """The run, which was accepted, is settled for good: its worker may forget what undoes it."""
        self._epochs.confirm(run)

    def refuse(self, run: Run) -> None:
        """The run's effects, which were accepted, are not committed: its epoch ends, and the worker undoes
        them."""
        lane = run.lane
        if self._fleet.holds(lane):
            self._epochs.refuse(run)
            self._mover.end_epoch(lane)
            self._mover.put(lane)

    def missing(self, worker_id: WorkerId, message: m.Missing, now: float) -> None:
        """A worker did not run a trigger because something is missing there: it gets that, and the trigger
        again."""
        worker = self._fleet.workers.get(worker_id)
        if worker is None:
            return
        began_s = worker.running_since_s
        run = worker.answered(message.job, now)
        if not isinstance(run, Run):
            self._unanswerable(worker, run)
            return
        self._counts["missing"] += 1
        run.spent_s += now - began_s
        lane = run.lane
        tool = run.trigger.tool
        if message.what == "tool":
            worker.tools.discard(tool.tool)
        elif message.what == "artifact" and (pool := self._fleet.pools.get(worker.pool)) is not None:
            pool.prepared.discard(tool.digest)
        self._mover.end_epoch(lane, keep_position=message.what != "replica")
        run.misses += 1
        if run.misses > MAX_MISSES or allowed_s(run) <= 0:
            text = "no worker could load what this tool needs; the server's log says why"
            self._backlog.fail(run, Reason.WORKER_LOST, text)
        self._mover.put(lane)

    def take_failures(self) -> list[tuple[Trigger, Reason, str]]:
        """The triggers that no worker will answer, since the last call, each with a sentence for its
        client."""
        return self._backlog.take_failures()

    def take_outdated(self) -> list[Trigger]:
        """The triggers that were not run because their panel had another version than they expect, since the
        last call."""
        outdated, self._outdated = self._outdated, []
        return outdated

    # -- peers ---------------------------------------------------------------------------------------

    @property
    def sandboxes(self) -> int:
        """How many sandboxes are connected."""
        return len(self._fleet.workers)

    @property
    def ready(self) -> bool:
        """Whether a worker can run a trigger: one is there, and so is its pool, which prepares handlers."""
        return any(True for _ in self._fleet.able())

    def peers(self) -> Iterable[WorkerId]:
        """Everyone who is to hear the gateway's heartbeat."""
        return self._fleet.peers()

    def hello(self, peer_id: WorkerId, message: m.Hello, now: float) -> bool:
        """A peer introduces itself, perhaps again: what it had from before is void. False if there are too
        many."""
        return self._members.hello(peer_id, message, now)

    def heard(self, peer_id: WorkerId, now: float) -> bool:
        """Anything at all came from a peer. False when it is not known and has to say Hello."""
        return self._members.heard(peer_id, now)

    def goodbye(self, peer_id: WorkerId, *, draining: bool, now: float) -> None:
        """A peer leaves. One that is ``draining`` still answers what it was sent."""
        self._members.goodbye(peer_id, draining=draining, now=now)

    def exited(self, pool_id: PoolId, worker_id: WorkerId, now: float) -> None:
        """A pool says that a worker has ended; it is believed about its own workers only."""
        self._members.exited(pool_id, worker_id, now)

    def lost(self, peer_id: WorkerId, now: float) -> None:
        """A peer cannot be reached, or breaks the protocol."""
        self._members.lost(peer_id, now)

    def prepared(self, pool_id: PoolId, message: m.Prepared, now: float) -> None:
        """A pool has prepared a handler, or refuses it."""
        unblocked = self.preparations.prepared(pool_id, message, now)
        if unblocked is None:
            self._counts["forged"] += 1
            return
        refusal = unblocked.refusal
        for lane in unblocked.lanes:
            head = lane.queue[0] if lane.queue else None
            if refusal is not None and head is not None and head.trigger.tool.digest == unblocked.digest:
                self._backlog.fail(head, Reason.HANDLER_ERROR, f"the handler was refused: {refusal.message}")
            self._mover.put(lane)

    # -- time and messages ---------------------------------------------------------------------------

    def next_tick_s(self) -> float:
        """In how many seconds ``tick`` is wanted again."""
        busy = any(worker.outstanding for worker in self._fleet.workers.values())
        return STALL_S if busy else self._heartbeat_s / 2

    def tick(self, now: float) -> None:
        """Finds peers that are silent or hang, lanes that are stalled, handlers that wait in vain;
        balances the load."""
        for pool in [pool for pool in self._fleet.pools.values() if pool.liveness.lost(now)]:
            self._members.lose_pool(pool.id, now)
        for worker in list(self._fleet.workers.values()):
            verdict = watch(worker, now)
            if verdict is Verdict.LOST:
                self._members.lose(worker, now, blame=True)
            elif verdict is Verdict.HANGS:
                self._members.replace(worker, now)
            elif verdict is Verdict.RELEASED:
                self._rings.mark(worker)
            elif verdict is Verdict.STALLED:
                while (move := self._placement.relieve(worker, now)) is not None:
                    self._mover.move(move.lane, move.target, now)
        for lane in self.preparations.expire(now):
            self._mover.put(lane)
        self.overdue.look(now)
        for move in self._placement.rebalance(now):
            if move.lane.in_flight:
                move.lane.target = move.target
                move.lane.moved_s = now
            else:
                self._mover.move(move.lane, move.target, now)

    def drain(self, now: float) -> list[tuple[WorkerId, list[ToWorker]]]:
        """Everything to send now, one list for each peer."""
        workers = self._fleet.workers
        sends: list[tuple[WorkerId, list[ToWorker]]] = []
        # what a lane lacks here may move it to another worker, which is looked at then
        while dirty := self._rings.take_dirty():
            for worker in dirty:
                if workers.get(worker.id) is not worker:
                    continue
                messages, worker.outbox = worker.outbox, []
                if worker.ring:
                    for lane in self._sender.fill(worker, messages, now):
                        self._mover.block(lane, worker, now)
                    for run in self._sender.outdated:
                        self._backlog.release(len(run.trigger.args))
                        self._outdated.append(run.trigger)
                        self._mover.put(run.lane)
                    self._sender.outdated.clear()
                if messages:
                    sends.append((worker.id, messages))
        for pool in self._fleet.pools.values():
            if pool.outbox:
                sends.append((WorkerId(pool.id), pool.outbox))
                pool.outbox = []
        return sends

    @property
    def unanswered(self) -> int:
        """Triggers that were offered and have not come back."""
        return self._backlog.runs - self._backlog.reserved

    def stats(self) -> dict[str, int]:
        """Counts since the start, and what there is now, for ``metrics``."""
        fleet, backlog = self._fleet, self._backlog
        in_flight = sum(len(worker.outstanding) for worker in fleet.workers.values())
        return {
            **self._counts,
            "workers_lost": self._members.workers_lost,
            "hung": self._members.hung,
            "refused": self._members.returns.refused,
            "moves": self._mover.moves,
            "epochs": self._epochs.begun,
            "snapshots": self._epochs.snapshots,
            "deltas": self._epochs.deltas,
            "jobs": backlog.runs,
            "job_bytes": backlog.size_bytes,
            # a worker may still be asked for a run that was revoked and waits again
            "waiting": max(0, backlog.runs - backlog.reserved - in_flight),
            "held": backlog.reserved,
            "in_flight": in_flight,
            "compiling": sum(len(pool.preparing) for pool in fleet.pools.values()),
            "compiles_wanted": self.preparations.wanted,
            "workers": len(fleet.workers),
            "pools": len(fleet.pools),
            "panels": len(fleet.lanes) - (OWN_PANEL in fleet.lanes),
        }

    def _unanswerable(self, worker: Worker, why: Unanswerable) -> None:
        self._counts["forged" if why is Unanswerable.FORGED else "stale"] += 1
        if why is Unanswerable.REVOKED and worker.ring:
            # it has room again
            self._rings.mark(worker)
