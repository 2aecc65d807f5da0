"""What lanes, workers and the fleet know about themselves."""

from __future__ import annotations

import pytest

from panels_gateway.dispatch import fleet as f
from panels_gateway.dispatch.fleet import Fleet, Position, Unanswerable
from panels_shared.messages import PoolId
from tests.gateway.dispatch import builders as b


def test_runs_are_equal_only_to_themselves() -> None:
    lane = b.lane(Fleet())
    assert b.run(lane) != b.run(lane)
    assert len({b.run(lane), b.run(lane)}) == 2


def test_lane_remembers_the_last_positions_only() -> None:
    fleet = Fleet()
    lane = b.lane(fleet)
    workers = [b.worker(fleet, bytes([number])) for number in range(f.MAX_POSITIONS + 1)]
    for number, worker in enumerate(workers):
        lane.epoch, lane.committed, lane.seq = number, 10 + number, 20 + number
        lane.remember(worker)
        if number == 1:
            lane.remember(workers[0])  # it is the latest again, so the second goes first
    assert workers[1] not in lane.positions
    assert lane.positions[workers[0]] == Position(1, 11, 21)
    assert len(lane.positions) == f.MAX_POSITIONS


def test_credit_covers_a_round_trip_within_its_bounds() -> None:
    worker = b.worker(Fleet(), b"w")
    assert worker.credit == int(f.CREDIT_US / (f.FIRST_GUESS_US + f.OVERHEAD_US))
    for _ in range(200):
        worker.observe(0)
    assert worker.credit == f.MAX_CREDIT < int(f.CREDIT_US / (worker.average_us + f.OVERHEAD_US))
    for _ in range(200):
        worker.observe(100)
    assert worker.credit == int(f.CREDIT_US / (worker.average_us + f.OVERHEAD_US)) < f.MAX_CREDIT
    for _ in range(200):
        worker.observe(1e6)
    assert worker.credit == f.MIN_CREDIT


@pytest.mark.parametrize(("said", "believed"), [(-5.0, 0.0), (1e18, f.MAX_EXECUTION_US)])
def test_worker_is_not_believed_an_impossible_time(said: float, believed: float) -> None:
    first, second = b.worker(Fleet(), b"1"), b.worker(Fleet(), b"2")
    first.observe(said)
    second.observe(believed)
    assert first.average_us == second.average_us


def test_answers_are_taken_in_order() -> None:
    fleet = Fleet()
    worker, lane = b.worker(fleet, b"w"), b.lane(fleet, runs=3)
    b.serve(worker, lane, in_flight=3)
    first, second, third = list(worker.outstanding)
    assert worker.running is worker.outstanding[first]
    assert worker.answered(third, 5.0) is Unanswerable.FORGED
    assert worker.answered(77, 5.0) is Unanswerable.STALE
    assert list(worker.outstanding) == [first, second, third]
    assert worker.running_since_s == 0.0
    assert worker.answered(first, 5.0) is lane.in_flight[0]
    assert worker.running_since_s == 5.0
    worker.outstanding[second] = None
    assert worker.answered(third, 6.0) is lane.in_flight[2]
    assert not worker.outstanding
    assert worker.running is None


def test_answer_to_a_revoked_run_frees_its_place() -> None:
    worker = b.worker(Fleet(), b"w")
    worker.outstanding = {1: None, 2: None}
    assert worker.answered(1, 5.0) is Unanswerable.REVOKED
    assert list(worker.outstanding) == [2]


def test_worker_is_stalled_only_by_a_run_that_is_long_for_it() -> None:
    worker = b.worker(Fleet(), b"w")
    assert not worker.stalled(100.0)
    worker.outstanding[1] = None
    assert not worker.stalled(f.STALL_S)
    assert worker.stalled(f.STALL_S * 1.01)
    worker.average_us = 1e6
    assert not worker.stalled(f.STALL_RUNS * 1.0)
    assert worker.stalled(f.STALL_RUNS * 1.01)


def test_backlog_counts_what_waits_here_and_there() -> None:
    worker = b.worker(Fleet(), b"w")
    worker.outstanding[1] = None
    worker.queued = 2
    assert worker.backlog_us == 3 * (worker.average_us + f.OVERHEAD_US)


def test_fleet_knows_who_is_able_and_who_is_there() -> None:
    fleet = Fleet()
    pool, lane = b.pool(fleet), b.lane(fleet)
    able, leaving = b.worker(fleet, b"1"), b.worker(fleet, b"2")
    b.worker(fleet, b"3", PoolId(b"gone"))
    leaving.draining = True
    assert list(fleet.able()) == [able]
    assert list(fleet.peers()) == [b"1", b"2", b"3", pool.id]
    assert fleet.holds(lane)
    b.lane(fleet)
    assert not fleet.holds(lane)
