"""Which worker gets which lane."""

from __future__ import annotations

from panels_gateway.dispatch.fleet import Fleet, Position, Worker
from panels_gateway.dispatch.placement import IDLE_SHARE, REBALANCE_S, SETTLE_S, Move, Placement
from panels_shared.messages import PoolId
from tests.gateway.dispatch import builders as b

NOW = 100.0


def pair() -> tuple[Fleet, Worker, Worker]:
    fleet = Fleet()
    b.pool(fleet)
    return fleet, b.worker(fleet, b"1"), b.worker(fleet, b"2")


def test_idlest_is_who_has_the_least_to_do() -> None:
    fleet, first, second = pair()
    lane = b.lane(fleet)
    placement = Placement(fleet)
    first.queued = 1
    assert placement.idlest(lane, now=NOW) is second
    assert placement.idlest(lane, now=NOW, exclude=second) is first
    second.queued = 2
    assert placement.idlest(lane, now=NOW) is first


def test_idlest_is_neither_leaving_nor_without_a_pool() -> None:
    fleet, first, second = pair()
    lane = b.lane(fleet)
    first.draining = True
    second.queued = 9
    b.worker(fleet, b"3", PoolId(b"gone"))
    assert Placement(fleet).idlest(lane, now=NOW) is second
    second.draining = True
    assert Placement(fleet).idlest(lane, now=NOW) is None


def test_worker_that_is_stalled_is_the_last_choice() -> None:
    fleet, first, second = pair()
    first.outstanding[1] = None
    second.queued = 50
    assert Placement(fleet).idlest(b.lane(fleet), now=NOW) is second


def test_replica_wins_a_tie_and_nothing_more() -> None:
    fleet, first, second = pair()
    lane = b.lane(fleet)
    lane.positions[second] = Position(1, 1, 1)
    assert Placement(fleet).idlest(lane, now=NOW) is second
    second.queued = 1
    assert Placement(fleet).idlest(lane, now=NOW) is first


def test_busy_lanes_break_a_tie_and_many_idle_ones_do_too() -> None:
    fleet, first, second = pair()
    for key in range(10, 74):
        first.lanes[b.lane(fleet, key)] = None
    assert Placement(fleet).idlest(b.lane(fleet), now=NOW) is second


def test_lanes_wait_once_and_in_order() -> None:
    fleet, first, _ = pair()
    placement = Placement(fleet)
    lanes = [b.lane(fleet, key, runs=1) for key in range(5)]
    empty = b.lane(fleet, 9)
    for lane in (*lanes, *lanes, empty):
        placement.wait(lane)
    lanes[1].queue.clear()
    lanes[2].worker = first
    del fleet.lanes[3]
    assert placement.take_waiting() == [lanes[0], lanes[4]]
    assert not any(lane.scheduled for lane in lanes)
    assert placement.take_waiting() == []
    placement.wait(lanes[0])
    assert placement.take_waiting() == [lanes[0]]


def test_relieve_moves_all_lanes_but_the_one_that_runs() -> None:
    fleet, first, second = pair()
    running, waiting = b.lane(fleet, 1, runs=1), b.lane(fleet, 2, runs=1)
    b.serve(first, running, in_flight=1)
    b.serve(first, waiting)
    placement = Placement(fleet)
    assert placement.relieve(first, NOW) == Move(waiting, second, at_once=True)
    del first.busy[waiting]
    assert placement.relieve(first, NOW) is None


def test_relieve_moves_any_lane_away_from_a_revoked_run() -> None:
    fleet, first, second = pair()
    lane = b.lane(fleet, 1, runs=1)
    b.serve(first, lane)
    first.outstanding[1] = None
    assert Placement(fleet).relieve(first, NOW) == Move(lane, second, at_once=True)


def test_relieve_needs_somebody_with_room() -> None:
    fleet, first, second = pair()
    running, waiting = b.lane(fleet, 1, runs=1), b.lane(fleet, 2, runs=1)
    b.serve(first, running, in_flight=1)
    b.serve(first, waiting)
    second.outstanding = dict.fromkeys(range(second.credit))
    second.running_since_s = NOW
    assert Placement(fleet).relieve(first, NOW) is None
    second.outstanding = {1: None}
    assert Placement(fleet).relieve(first, NOW) is not None
    second.running_since_s = NOW - 1
    assert Placement(fleet).relieve(first, NOW) is None
    second.draining = True
    assert Placement(fleet).relieve(first, NOW) is None


def loaded() -> tuple[Fleet, Worker, Worker]:
    """One worker with five busy lanes, another with none."""
    fleet, first, second = pair()
    for key in range(5):
        b.serve(first, b.lane(fleet, key, runs=2))
    return fleet, first, second


def test_rebalance_moves_half_of_the_difference_between_runs() -> None:
    fleet, first, second = loaded()
    moves = Placement(fleet).rebalance(NOW)
    assert moves == [Move(lane, second, at_once=False) for lane in list(first.busy)[:2]]


def test_rebalance_comes_at_intervals() -> None:
    fleet, _, _ = loaded()
    placement = Placement(fleet)
    assert placement.rebalance(NOW)
    assert not placement.rebalance(NOW + REBALANCE_S / 2)
    assert placement.rebalance(NOW + REBALANCE_S * 1.01)


def test_rebalance_leaves_lanes_that_have_just_moved_or_are_about_to() -> None:
    fleet, first, second = loaded()
    lanes = list(first.busy)
    lanes[0].target = second
    lanes[1].moved_s = NOW - SETTLE_S / 2
    assert [move.lane for move in Placement(fleet).rebalance(NOW)] == lanes[2:4]


def test_rebalance_wants_a_worker_that_is_nearly_idle() -> None:
    fleet, first, second = loaded()
    second.queued = int(first.queued * IDLE_SHARE) + 1
    assert Placement(fleet).rebalance(NOW) == []


def test_rebalance_wants_two_workers_and_two_lanes_of_difference() -> None:
    fleet, first, second = loaded()
    for lane in list(first.busy)[1:]:
        del first.busy[lane]
    assert Placement(fleet).rebalance(NOW) == []
    fleet, _, second = loaded()
    second.draining = True
    assert Placement(fleet).rebalance(NOW) == []


def test_lane_goes_to_a_worker_with_its_label_only() -> None:
    fleet = Fleet()
    placement = Placement(fleet)
    b.pool(fleet)
    b.worker(fleet, b"common")
    lane = b.lane(fleet, runs=1)
    lane.label = "gpu"
    assert placement.idlest(lane, now=0.0) is None
    other = PoolId(b"gpu pool")
    b.pool(fleet, other).labels = frozenset(("gpu", "big"))
    worker = b.worker(fleet, b"gpu worker", other)
    assert placement.idlest(lane, now=0.0) is worker
