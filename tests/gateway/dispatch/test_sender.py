"""What is sent to a worker that has room."""

from __future__ import annotations

from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet
from panels_gateway.dispatch.sender import Sender
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
