"""The backlog: counts the triggers that were offered and are not answered. Pure."""

from __future__ import annotations

from typing import Final

from panels_gateway.dispatch.fleet import Lane, Run
from panels_gateway.dispatch.limits import DispatchLimits, OverloadedError
from panels_gateway.panels.trigger import Trigger
from panels_shared.outcome import Reason

#: When to try again while the gateway as a whole is full, in milliseconds.
RETRY_AFTER_MS: Final = 500
#: Bounds of the estimate for a panel that is full, in milliseconds.
MIN_RETRY_AFTER_MS: Final = 10
MAX_RETRY_AFTER_MS: Final = 10_000
#: What a trigger is assumed to take on a lane that has no worker yet, in microseconds.
_UNKNOWN_US: Final = 1_000.0


class Backlog:
    """Counts the triggers that are not answered, and their arguments, against ``limits``.

    Bound: ``DispatchLimits``, in triggers and bytes. Overflow: the new trigger is refused, those that wait
    are kept. Every trigger that was admitted is released once. ``runs`` are all that are counted, and
    ``reserved`` those of them that their owner keeps.
    """

    __slots__ = ("_failures", "limits", "reserved", "runs", "size_bytes")

    def __init__(self, limits: DispatchLimits) -> None:
        self.limits = limits
        self.runs = 0
        self.reserved = 0
        self.size_bytes = 0
        self._failures: list[tuple[Trigger, Reason, str]] = []

    def admit(self, lane: Lane, args_bytes: int) -> None:
        """Counts one more trigger of ``lane``. Raises ``OverloadedError``, and counts nothing then."""
        waiting = len(lane.queue) + len(lane.in_flight)
        if waiting >= self.limits.queue_per_panel:
            raise OverloadedError("panel", _retry_after_ms(lane, waiting))
        self._add(args_bytes)

    def reserve(self, args_bytes: int) -> None:
        """Counts one more trigger, of no lane. Raises ``OverloadedError``, and counts nothing then."""
        self._add(args_bytes)
        self.reserved += 1

    def unreserve(self, args_bytes: int) -> None:
        """Forgets one trigger that was reserved."""
        self.reserved -= 1
        self.release(args_bytes)

    def _add(self, args_bytes: int) -> None:
        limits = self.limits
        size_bytes = self.size_bytes + args_bytes
        if self.runs >= limits.queue_total or size_bytes > limits.queue_bytes:
            raise OverloadedError("gateway", RETRY_AFTER_MS)
        self.runs += 1
        self.size_bytes = size_bytes

    def release(self, args_bytes: int) -> None:
        """Forgets one trigger that was admitted."""
        self.runs -= 1
        self.size_bytes -= args_bytes

    def fail(self, run: Run, reason: Reason, message: str) -> None:
        """Gives up the run, which waits in its lane's queue. Its trigger is in the next ``take_failures``."""
        self.drop(run)
        self._failures.append((run.trigger, reason, message))

    def drop(self, run: Run) -> None:
        """Forgets the run, which waits in its lane's queue. Its trigger is the caller's to answer."""
        lane = run.lane
        lane.queue.remove(run)
        if lane.worker is not None:
            lane.worker.queued -= 1
        self.release(len(run.trigger.args))

    def take_failures(self) -> list[tuple[Trigger, Reason, str]]:
        """The triggers that were given up since the last call, each with a sentence for its client."""
        failures, self._failures = self._failures, []
        return failures


def _retry_after_ms(lane: Lane, waiting: int) -> int:
    average_us = lane.worker.average_us if lane.worker is not None else _UNKNOWN_US
    return min(MAX_RETRY_AFTER_MS, max(MIN_RETRY_AFTER_MS, int(waiting * average_us / 1_000)))
