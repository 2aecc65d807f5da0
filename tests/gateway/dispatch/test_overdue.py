"""Triggers that wait for too long, and those that nobody waits for."""

from __future__ import annotations

import msgspec

from panels_gateway.dispatch.backlog import Backlog
from panels_gateway.dispatch.catalog import HandlerCatalog
from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet, Lane, Worker
from panels_gateway.dispatch.limits import DispatchLimits
from panels_gateway.dispatch.mover import Mover
from panels_gateway.dispatch.overdue import LOOK_S, Overdue
from panels_gateway.dispatch.placement import Placement
from panels_gateway.dispatch.preparations import Preparations
from panels_gateway.dispatch.rings import Rings
from panels_gateway.panels.trigger import Resumption, Trigger
from panels_shared.messages import Answered
from tests.gateway.dispatch import builders as b

TIMEOUT_S = 30.0


class Queue:
    """The parts that a look works on. Triggers are submitted at 0 unless another time is given."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.rings = Rings(window=8)
        self.placement = Placement(self.fleet)
        self.backlog = Backlog(DispatchLimits())
        preparations = Preparations(self.fleet, HandlerCatalog())
        self.mover = Mover(self.fleet, self.rings, Epochs(), self.placement, preparations)
        self.overdue = Overdue(self.fleet, self.mover, self.placement, self.backlog, TIMEOUT_S)

    def lane(self, key: int, *times_s: float, resumes: bool = False) -> Lane:
        lane = b.lane(self.fleet, key)
        for at_s in times_s:
            run = b.run(lane)
            resume = Resumption(1, b"image", (Answered(1, True, b"1"),)) if resumes else None
            run.trigger = msgspec.structs.replace(run.trigger, submitted_s=at_s, resume=resume)
            self.backlog.admit(lane, len(run.trigger.args))
            lane.queue.append(run)
        self.placement.wait(lane)
        return lane

    def serve(self, lane: Lane, worker: Worker, *, in_flight: int) -> None:
        lane.scheduled = False
        self.placement.take_waiting()
        b.serve(worker, lane, in_flight=in_flight)

    def taken(self) -> list[Trigger]:
        return [trigger for trigger, _ in self.overdue.take()]


def test_look_gives_up_what_waits_for_a_worker_and_keeps_what_came_later() -> None:
    queue = Queue()
    lane = queue.lane(1, 0.0, 1.0, 20.0)
    first, second, _ = (run.trigger for run in lane.queue)
    queue.overdue.look(TIMEOUT_S)
    assert queue.taken() == []
    queue.overdue.look(TIMEOUT_S + 1.0 + LOOK_S)
    assert queue.taken() == [first, second]
    assert [run.trigger.submitted_s for run in lane.queue] == [20.0]
    assert queue.backlog.runs == 1


def test_look_comes_at_intervals_however_often_it_is_asked_for() -> None:
    queue = Queue()
    queue.lane(1, 0.0)
    queue.overdue.look(TIMEOUT_S)
    queue.overdue.look(TIMEOUT_S + LOOK_S / 2)
    assert queue.taken() == []
    queue.overdue.look(TIMEOUT_S + LOOK_S)
    assert len(queue.taken()) == 1


def test_look_passes_resumptions_over_and_finds_what_stands_behind_them() -> None:
    queue = Queue()
    lane = queue.lane(1, 0.0, resumes=True)
    lane.queue.append(b.run(lane))
    queue.backlog.admit(lane, 2)
    queue.overdue.look(1_000.0)
    assert [trigger.resume for trigger in queue.taken()] == [None]
    assert len(lane.queue) == 1


def test_look_takes_back_what_was_sent_behind_another_panels_long_run_only() -> None:
    queue = Queue()
    worker = b.worker(queue.fleet, b"w")
    b.pool(queue.fleet)
    long, other = queue.lane(1, 0.0, 0.0), queue.lane(2, 0.0, 1_000.0)
    queue.serve(long, worker, in_flight=2)
    queue.serve(other, worker, in_flight=1)
    long.open = other.open = True
    victim = other.in_flight[0].trigger
    worker.running_since_s = 999.0
    queue.overdue.look(1_000.0)
    assert queue.taken() == [victim]
    # what runs is bounded by its deadline, and so is what stands behind it in its own panel
    assert (len(long.in_flight), len(other.in_flight), len(other.queue)) == (2, 0, 1)
    assert worker.queued == 1


def test_strand_gives_up_what_no_worker_serves_and_strand_all_the_rest() -> None:
    queue = Queue()
    worker = b.worker(queue.fleet, b"w")
    served, stranded = queue.lane(1, 0.0, 0.0), queue.lane(2, 0.0)
    queue.serve(served, worker, in_flight=1)
    served.open = True
    queue.placement.wait(stranded)
    queue.overdue.strand("the end")
    assert [message for _, message in queue.overdue.take()] == ["the end"]
    assert not stranded.queue
    assert len(served.queue) + len(served.in_flight) == 2
    queue.overdue.strand_all("the end")
    assert len(queue.taken()) == 2
    assert (queue.backlog.runs, worker.queued) == (0, 0)


def test_drop_takes_a_trigger_out_unless_it_was_sent() -> None:
    queue = Queue()
    worker = b.worker(queue.fleet, b"w")
    lane = queue.lane(1, 0.0, 0.0)
    queue.serve(lane, worker, in_flight=1)
    assert not queue.overdue.drop(lane.in_flight[0].trigger)
    waiting = lane.queue[0].trigger
    assert queue.overdue.drop(waiting)
    assert not queue.overdue.drop(waiting)
    assert queue.taken() == []
    assert (queue.backlog.runs, worker.queued) == (1, 0)


def test_strand_gives_resumptions_back_that_no_worker_serves() -> None:
    queue = Queue()
    lane = queue.lane(1, 0.0, resumes=True)
    (resumption,) = (run.trigger for run in lane.queue)
    queue.overdue.strand("the end")
    assert queue.taken() == [resumption]
    assert (len(lane.queue), queue.backlog.runs) == (0, 0)


def test_strand_all_gives_back_a_resumption_that_was_sent() -> None:
    queue = Queue()
    worker = b.worker(queue.fleet, b"w")
    lane = queue.lane(1, 0.0, resumes=True)
    queue.serve(lane, worker, in_flight=1)
    lane.open = True
    (resumption,) = (run.trigger for run in lane.in_flight)
    queue.overdue.strand("the end")
    assert queue.taken() == []
    queue.overdue.strand_all("the end")
    assert queue.taken() == [resumption]
    assert (queue.backlog.runs, worker.queued) == (0, 0)
