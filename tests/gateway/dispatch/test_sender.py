"""What is sent to a worker that has room."""

from __future__ import annotations

import msgspec

from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet
from panels_gateway.dispatch.sender import Sender
from panels_gateway.panels.trigger import Resumption
from panels_shared import messages as m
from panels_shared.messages import ToWorker
from tests.gateway.dispatch import builders as b


def test_run_that_a_worker_died_of_waits_for_a_sign_of_life() -> None:
    fleet = Fleet()
    worker, lane = b.worker(fleet, b"w"), b.lane(fleet, runs=1)
    b.pool(fleet).prepared.add(b.TOOL.digest)
    b.serve(worker, lane)
    lane.queue[0].losses, lane.queue[0].lost_s = 1, 5.0
    sender, messages = Sender(fleet, Epochs(), 4), list[ToWorker]()
    worker.liveness.heard(5.0)
    worker.ring.append(lane)
    assert sender.fill(worker, messages, 6.0) == []
    assert (messages, worker.cautious) == ([], [lane])
    worker.liveness.heard(5.1)
    worker.ring.append(lane)
    sender.fill(worker, messages, 6.0)
    assert [type(message) for message in messages] == [m.Snapshot, m.Tool, m.Job]


def test_handler_that_goes_on_is_sent_with_its_image_and_its_answers_and_no_args() -> None:
    fleet = Fleet()
    worker, lane = b.worker(fleet, b"w"), b.lane(fleet, runs=1)
    b.pool(fleet).prepared.add(b.TOOL.digest)
    b.serve(worker, lane)
    answers = (m.Answered(1, True, b"2"),)
    trigger = lane.queue[0].trigger
    lane.queue[0].trigger = msgspec.structs.replace(
        trigger, scope=b'{"a":1}', now_ms=5.0, seed=9, resume=Resumption(7, b"image", answers)
    )
    lane.queue.append(b.run(lane))
    sender, messages = Sender(fleet, Epochs(), 4), list[ToWorker]()
    worker.ring.append(lane)
    sender.fill(worker, messages, 6.0)
    resume, job = messages[2], messages[3]
    assert resume == m.Resume(
        1, lane.key, lane.epoch, 0, -1, b.TOOL.tool, b'{"a":1}', 5.0, 9, b"image", answers
    )
    # it stands in the panel's order like any other
    assert isinstance(job, m.Job)
    assert (job.index, job.epoch) == (1, lane.epoch)


def test_run_that_expects_a_version_is_sent_alone_or_not_at_all() -> None:
    fleet = Fleet()
    worker, lane = b.worker(fleet, b"w"), b.lane(fleet, runs=3)
    b.pool(fleet).prepared.add(b.TOOL.digest)
    b.serve(worker, lane)
    for run, expected in zip(lane.queue, (0, 5, None), strict=True):
        run.trigger = msgspec.structs.replace(run.trigger, expected_seq=expected)
    second = lane.queue[1]
    sender, messages = Sender(fleet, Epochs(), 4), list[ToWorker]()
    worker.ring.append(lane)
    sender.fill(worker, messages, 6.0)
    assert [type(message) for message in messages] == [m.Snapshot, m.Tool, m.Job]
    assert (len(lane.in_flight), len(lane.queue), sender.outdated) == (1, 2, [])
    # the one before it is settled, and the panel is not at version 5
    lane.in_flight.clear()
    worker.outstanding.clear()
    worker.ring.append(lane)
    sender.fill(worker, messages, 6.0)
    assert (sender.outdated, len(messages), worker.queued) == ([second], 3, 1)
    worker.ring.append(lane)
    sender.fill(worker, messages, 6.0)
    assert len(messages) == 4
