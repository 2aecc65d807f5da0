"""The largest frame that a peer may send follows from what it was asked."""

from __future__ import annotations

import msgspec

from panels_gateway.dispatch import allowance
from panels_gateway.dispatch.epochs import Epochs
from panels_gateway.dispatch.fleet import Fleet
from panels_shared.limits import MAX_IMAGE_BYTES
from tests.gateway.dispatch import builders as b


def test_worker_may_send_what_its_runs_may_come_to() -> None:
    fleet = Fleet()
    worker = b.worker(fleet, b"w")
    assert allowance.worker_bytes(worker) == allowance.UNASKED_BYTES
    b.serve(worker, b.lane(fleet, runs=2), in_flight=2)
    assert allowance.worker_bytes(worker) == allowance.UNASKED_BYTES + 2 * allowance.result_bytes(b.TOOL)


def test_scripts_may_come_to_an_image_as_well() -> None:
    script = msgspec.structs.replace(b.TOOL, language="javascript")
    assert allowance.result_bytes(script) == allowance.result_bytes(b.TOOL) + MAX_IMAGE_BYTES


def test_revoked_runs_may_be_answered_until_a_later_one_is() -> None:
    fleet = Fleet()
    worker = b.worker(fleet, b"w")
    lane = b.lane(fleet, runs=3)
    b.serve(worker, lane, in_flight=2)
    lane.open = True
    Epochs().end(lane)
    assert worker.revoked_bytes == 2 * allowance.result_bytes(b.TOOL)
    later = b.run(lane)
    worker.outstanding = {worker.revoked_last + 1: later}
    assert worker.answered(worker.revoked_last + 1, 1.0) is later
    assert worker.revoked_bytes == 0


def test_pool_may_send_what_it_was_asked_to_prepare() -> None:
    pool = b.pool(Fleet())
    pool.preparing[b"d"] = 0.0
    assert allowance.pool_bytes(pool) == allowance.UNASKED_BYTES + allowance.PREPARED_BYTES
