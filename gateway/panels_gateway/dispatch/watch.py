"""The watch over a worker's progress: its silence is one thing, a run that does not end is another. Pure.

A worker runs what it is sent in order, so the oldest run that it has not answered is the one that is running:
it alone is held to its deadline, and it alone is blamed when the worker dies.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from panels_gateway.dispatch.fleet import Run, Worker

#: How long after its deadline a run that is not answered shows that its worker hangs, in seconds.
GRACE_S: Final = 1.0
#: How long an answer is awaited for a run that was revoked when it may have been running, in seconds.
REVOKED_S: Final = 31.0


#: How many full runs a run may spend in sendings that come to nothing before it is given up.
MAX_ATTEMPTS: Final = 2


def allowed_s(run: Run) -> float:
    """How long the run may take from now on, in seconds, before its worker counts as hanging.

    That is its deadline and a grace, and over all of its sendings ``MAX_ATTEMPTS`` times that, whatever the
    workers say that it was sent to.
    """
    once = run.trigger.tool.limits[1] / 1_000 + GRACE_S
    return min(once, MAX_ATTEMPTS * once - run.spent_s)


class Verdict(Enum):
    """FINE: nothing to do. LOST: silent. HANGS: alive, but in a run that does not end. RELEASED: a revoked
    run never began. STALLED: others wait."""

    FINE = "fine"
    LOST = "lost"
    HANGS = "hangs"
    RELEASED = "released"
    STALLED = "stalled"


def watch(worker: Worker, now: float) -> Verdict:
    """Looks at one worker; ``now`` in monotonic seconds. Only RELEASED is carried out here, on the
    worker's own list."""
    if worker.liveness.lost(now):
        return Verdict.LOST
    if not worker.outstanding:
        return Verdict.FINE
    number, running = next(iter(worker.outstanding.items()))
    elapsed = now - worker.running_since_s
    if running is None and elapsed > REVOKED_S:
        # it had not begun when it was revoked, so nothing will come; if the worker hangs after all, the next
        # run shows it
        del worker.outstanding[number]
        worker.running_since_s = now
        return Verdict.RELEASED
    if running is not None and elapsed > allowed_s(running):
        return Verdict.HANGS
    return Verdict.STALLED if worker.stalled(now) else Verdict.FINE
