"""How epochs begin and end, and when what a worker may forget moves."""

from __future__ import annotations

import msgspec

from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet, Lane, Position, Run, Worker
from panels_gateway.panels.panel import Mutation
from panels_shared import messages as m
from tests.gateway.dispatch import builders as b


def opened() -> tuple[Epochs, Lane, Worker]:
    """A lane with an epoch open on its worker."""
    fleet, epochs = Fleet(), Epochs()
    worker, lane = b.worker(fleet, b"w"), b.lane(fleet, runs=3)
    b.serve(worker, lane)
    assert epochs.begin(lane, worker) == m.Snapshot(1, 1, {})
    return epochs, lane, worker


def accepted(lane: Lane, index: int) -> Run:
    """Run ``index`` of the open epoch, accepted and committed."""
    run = b.run(lane)
    run.worker, run.epoch, run.index, run.seq = lane.worker, lane.epoch, index, lane.panel.seq
    lane.panel.commit([Mutation("set", f"k{index}", msgspec.Raw(b"1"))])
    return run


def test_end_gives_runs_in_flight_back_in_order_and_keeps_the_place_of_the_running_one() -> None:
    epochs, lane, worker = opened()
    runs = list(lane.queue)
    lane.queue.clear()
    lane.queue.extend(runs)
    worker.queued = 0
    b.serve(worker, lane, in_flight=2)
    first = next(iter(worker.outstanding))
    assert epochs.end(lane) == m.Revoke(1, 1)
    assert list(lane.queue) == runs
    assert not lane.in_flight
    assert worker.outstanding == {first: None}
    assert worker.queued == 3
    assert lane.positions == {worker: Position(1, -1, 0)}
    assert epochs.end(lane) is None


def test_end_without_the_position_has_the_next_epoch_begin_with_a_snapshot() -> None:
    epochs, lane, worker = opened()
    assert epochs.end(lane, keep_position=False) is None
    assert isinstance(epochs.begin(lane, worker), m.Snapshot)
    epochs.end(lane)
    assert epochs.end(lane, keep_position=False) is None  # it is of no use after all
    assert isinstance(epochs.begin(lane, worker), m.Snapshot)
    assert (epochs.begun, epochs.snapshots, epochs.deltas) == (3, 3, 0)


def test_only_confirm_moves_what_may_be_forgotten() -> None:
    epochs, lane, worker = opened()
    first, second = accepted(lane, 0), accepted(lane, 1)
    assert lane.committed == -1
    epochs.confirm(first)
    assert lane.committed == 0
    epochs.end(lane)
    assert lane.positions[worker] == Position(1, 0, 0)
    epochs.confirm(second)
    assert lane.positions[worker] == Position(1, 1, 1)
    assert epochs.begin(lane, worker) == m.Delta(1, 2, 1, 1, {"k1": b"1"})


def test_refused_run_and_those_after_it_are_never_in_a_position() -> None:
    epochs, lane, worker = opened()
    first, second, third = (accepted(lane, index) for index in range(3))
    epochs.confirm(first)
    epochs.refuse(second)
    epochs.end(lane)
    assert lane.positions[worker] == Position(1, 0, 1)
    epochs.confirm(third)
    assert lane.positions[worker] == Position(1, 0, 1)


def test_refuse_after_the_end_of_the_epoch_takes_the_latest_version_of_its_position() -> None:
    epochs, lane, worker = opened()
    first, second = accepted(lane, 0), accepted(lane, 1)
    epochs.confirm(first)
    epochs.end(lane)
    epochs.refuse(second)
    assert lane.positions[worker] == Position(1, 0, 1)


def test_confirm_of_an_earlier_epoch_leaves_the_open_one_alone() -> None:
    epochs, lane, worker = opened()
    late = accepted(lane, 0)
    epochs.end(lane)
    epochs.begin(lane, worker)
    epochs.confirm(late)
    assert lane.committed == -1
    epochs.end(lane)
    assert lane.positions[worker] == Position(2, -1, 1)


def test_lane_without_a_worker_has_no_epoch_to_end() -> None:
    assert Epochs().end(b.lane(Fleet())) is None
