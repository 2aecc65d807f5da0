"""Overdue runs: triggers that have waited too long for their turn, and those that nobody waits for. Pure.

A lane's triggers stand in the order in which they came, so the first one that is not overdue ends the look at
a lane. Resumptions stand among them and are passed over: a handler that was suspended waits on purpose, and
goes on whenever a worker is there. When the gateway stops, they are given back and wait for the next one.
"""

from __future__ import annotations

from typing import Final

from panels_gateway.dispatch.backlog import Backlog
from panels_gateway.dispatch.fleet import Fleet, Lane, Run
from panels_gateway.dispatch.mover import Mover
from panels_gateway.dispatch.placement import Placement
from panels_gateway.panels.trigger import Trigger

#: How often lanes are looked at, in seconds.
LOOK_S: Final = 0.25


class Overdue:
    """Gives up runs that have not begun ``timeout_s`` after their trigger was submitted.

    Times are monotonic seconds. A look costs O(lanes that have something to run). A run that was sent counts
    as begun unless its worker is stalled by another panel's run: what was sent is bounded by the deadlines of
    what the worker runs before it.
    """

    __slots__ = ("_backlog", "_fleet", "_looked_s", "_mover", "_placement", "_taken", "timeout_s")

    def __init__(
        self, fleet: Fleet, mover: Mover, placement: Placement, backlog: Backlog, timeout_s: float
    ) -> None:
        self.timeout_s = timeout_s
        self._fleet = fleet
        self._mover = mover
        self._placement = placement
        self._backlog = backlog
        self._looked_s = float("-inf")
        self._taken: list[tuple[Trigger, str]] = []

    @property
    def pending(self) -> int:
        """Triggers that the next ``take`` returns."""
        return len(self._taken)

    def take(self) -> list[tuple[Trigger, str]]:
        """The triggers that were given up since the last call, each with a sentence for its client."""
        taken, self._taken = self._taken, []
        return taken

    def look(self, now: float) -> None:
        """Gives up what is overdue; does nothing if the last look was less than ``LOOK_S`` ago."""
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        before_s = now - self.timeout_s
        for worker in list(self._fleet.workers.values()):
            stalled = worker.stalled(now)
            for lane in list(worker.busy):
                first = lane.in_flight[0] if lane.in_flight else None
                if (
                    stalled
                    and first is not None
                    and first is not worker.running
                    and first.trigger.submitted_s < before_s
                ):
                    # none of the lane's runs has begun: they go back, and those that are overdue leave
                    self._mover.end_epoch(lane)
                    self._mover.put(lane)
                self._give_up(lane, before_s, f"it did not have its turn within {self.timeout_s:g} s")
        for lane in self._placement.waiting():
            which = f"no worker with the label {lane.label!r}" if lane.label else "no worker"
            self._give_up(lane, before_s, f"{which} could run it within {self.timeout_s:g} s")

    def strand(self, message: str) -> None:
        """Gives up everything that stands in a lane which no worker serves, resumptions included."""
        for lane in self._placement.waiting():
            self._give_up(lane, float("inf"), message, resumptions=True)

    def strand_all(self, message: str) -> None:
        """Gives up everything, what was sent included: answers to that are stale from now on."""
        for lane in list(self._fleet.lanes.values()):
            if lane.in_flight:
                self._mover.end_epoch(lane)
            self._give_up(lane, float("inf"), message, resumptions=True)

    def drop(self, trigger: Trigger) -> bool:
        """Takes a trigger that nobody waits for out of its lane; False if it was sent, or is not there."""
        lane = self._fleet.lanes.get(trigger.panel.key)
        run = None if lane is None else next((run for run in lane.queue if run.trigger is trigger), None)
        if lane is None or run is None:
            return False
        self._backlog.drop(run)
        self._mover.put(lane)
        return True

    def _give_up(self, lane: Lane, before_s: float, message: str, *, resumptions: bool = False) -> None:
        late: list[Run] = []
        for run in lane.queue:
            if run.trigger.resume is not None and not resumptions:
                continue
            if run.trigger.submitted_s >= before_s:
                break
            late.append(run)
        for run in late:
            self._backlog.drop(run)
            self._taken.append((run.trigger, message))
        if late:
            self._mover.put(lane)
