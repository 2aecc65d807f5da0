"""The sender: turns the runs that a worker has room for into messages. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet, Lane, Run, Worker
from panels_shared import messages as m
from panels_shared.messages import ToWorker

_NOTHING: Final[frozenset[bytes]] = frozenset()


class Sender:
    """Sends runs: each with a number of its own, after the epoch and the tool that it needs.

    ``window`` bounds the runs of one lane in flight. The cost is O(1) for each run that is sent.

    A run of a trigger that expects a version of its panel is sent when nothing of its lane is in flight: all
    before it is settled then. ``outdated`` are the runs that were taken out of their lanes because the panel
    had another version when their turn came; the caller takes them, and puts their lanes.
    """

    __slots__ = ("_epochs", "_fleet", "_sendings", "_window", "outdated")

    def __init__(self, fleet: Fleet, epochs: Epochs, window: int) -> None:
        self._fleet = fleet
        self._epochs = epochs
        self._window = window
        self._sendings = 0
        self.outdated: list[Run] = []

    def fill(self, worker: Worker, messages: list[ToWorker], now: float) -> list[Lane]:
        """Adds to ``messages`` the runs that the worker has credit for, one of each lane in turn.

        Returns the lanes that it took out of the ring because the worker's pool has not prepared their next
        handler: the caller makes them wait for that.
        """
        ring = worker.ring
        outstanding = worker.outstanding
        if not outstanding:
            worker.running_since_s = now
        pool = self._fleet.pools.get(worker.pool)
        prepared: AbstractSet[bytes] = pool.prepared if pool is not None else _NOTHING
        window = self._window
        blocked: list[Lane] = []
        room = worker.credit - len(outstanding)
        while ring and room > 0:
            lane = ring.popleft()
            lane.scheduled = False
            queue = lane.queue
            in_flight = lane.in_flight
            if not queue or lane.target is not None or len(in_flight) >= window:
                continue
            run = queue[0]
            expected = run.trigger.expected_seq
            if expected is not None:
                if in_flight:
                    continue
                if lane.panel.seq != expected:
                    queue.popleft()
                    worker.queued -= 1
                    self.outdated.append(run)
                    continue
            if run.trigger.tool.digest not in prepared:
                blocked.append(lane)
                continue
            if run.losses and worker.liveness.last_heard_s <= run.lost_s:
                # workers may have died together: only one that is known to live may be the next to die of it
                worker.cautious.append(lane)
                continue
            queue.popleft()
            self._send(run, lane, worker, messages, now)
            in_flight.append(run)
            room -= 1
            if queue and len(in_flight) < window:
                lane.scheduled = True
                ring.append(lane)
        return blocked

    def _send(self, run: Run, lane: Lane, worker: Worker, messages: list[ToWorker], now: float) -> None:
        worker.queued -= 1
        if not lane.open:
            messages.append(self._epochs.begin(lane, worker))
        trigger = run.trigger
        tool = trigger.tool
        number = tool.tool
        if number not in worker.tools:
            worker.tools.add(number)
            messages.append(tool)
        index = run.index = lane.next_index
        lane.next_index = index + 1
        epoch = run.epoch = lane.epoch
        run.sent_s = now
        run.worker = worker
        self._sendings = sending = run.id = self._sendings + 1
        worker.outstanding[sending] = run
        resume = trigger.resume
        if resume is not None:
            messages.append(
                m.Resume(
                    sending,
                    lane.key,
                    epoch,
                    index,
                    lane.committed,
                    number,
                    trigger.scope,
                    trigger.now_ms,
                    trigger.seed,
                    resume.image,
                    resume.answers,
                )
            )
            return
        messages.append(
            m.Job(
                sending,
                lane.key,
                epoch,
                index,
                lane.committed,
                number,
                trigger.args,
                trigger.scope,
                trigger.now_ms,
                trigger.seed,
            )
        )
