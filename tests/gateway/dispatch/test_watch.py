"""When a worker counts as lost, stalled or done with what was revoked."""

from __future__ import annotations

from panels_gateway.dispatch.fleet import STALL_S, Fleet, Worker
from panels_gateway.dispatch.watch import GRACE_S, REVOKED_S, Verdict, watch
from tests.gateway.dispatch import builders as b

DEADLINE_S = b.TOOL.limits[1] / 1_000


def heard(at: float, *, in_flight: int = 1) -> Worker:
    fleet = Fleet()
    worker = b.worker(fleet, b"w")
    b.serve(worker, b.lane(fleet, runs=2), in_flight=in_flight)
    worker.liveness.heard(at)
    return worker


def test_silent_worker_is_lost() -> None:
    worker = heard(0.0, in_flight=0)
    assert watch(worker, worker.liveness.lost_at_s - 0.01) is Verdict.FINE
    assert watch(worker, worker.liveness.lost_at_s) is Verdict.LOST


def test_long_run_stalls_and_then_shows_that_the_worker_hangs() -> None:
    worker = heard(DEADLINE_S + GRACE_S)
    assert watch(worker, STALL_S / 2) is Verdict.FINE
    assert watch(worker, DEADLINE_S + GRACE_S) is Verdict.STALLED
    assert watch(worker, DEADLINE_S + GRACE_S + 0.01) is Verdict.HANGS


def test_revoked_run_is_awaited_for_a_while_and_then_passed_over() -> None:
    worker = heard(REVOKED_S, in_flight=2)
    first, second = worker.outstanding
    worker.outstanding[first] = None
    assert watch(worker, REVOKED_S) is Verdict.STALLED
    assert watch(worker, REVOKED_S + 0.1) is Verdict.RELEASED
    assert list(worker.outstanding) == [second]
    assert worker.running_since_s == REVOKED_S + 0.1
    assert watch(worker, REVOKED_S + 0.1) is Verdict.FINE
