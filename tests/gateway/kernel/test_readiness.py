"""Whether a trigger works is found out by having one run, at a bounded cost, and without a trace."""

from __future__ import annotations

import asyncio

import pytest

from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.readiness import KEPT_S, Readiness
from panels_shared import messages as m
from panels_shared.messages import PoolId, WorkerId
from panels_shared.outcome import Failed, Outcome, Reason, Suspended, Usage
from tests.gateway.builders import setting
from tests.support.gateway import POOL, WORKER, Gateway, completed

pytestmark = pytest.mark.anyio

FAILED = Failed(Usage(), Reason.TIMEOUT, "what a worker says")


class Broken(MemoryJournal):
    """A journal whose writer fails, or hangs."""

    hangs = False

    async def ping(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        raise JournalError("the disk is gone")


def impatient(gateway: Gateway) -> Readiness:
    """The gateway's readiness, which does not wait for what will not come in this test."""
    gateway.kernel.readiness._bound_s = 0.01
    return gateway.kernel.readiness


async def test_a_trigger_that_is_run_makes_ready_and_leaves_no_trace() -> None:
    gateway = Gateway(limits=KernelLimits(panels=1))
    kernel = gateway.kernel
    assert await kernel.readiness.look() == ""
    assert len(gateway.jobs) == 1
    assert (kernel.turn.position, kernel.journal.position) == (0, 0)
    assert (kernel.making.panels, len(kernel.residents), kernel.dispatcher.stats()["panels"]) == (0, 0, 0)
    counters = kernel.counters
    assert (counters.triggers, counters.completed, counters.fuel, counters.execution_us) == (0, 0, 0, 0)
    assert kernel.unanswered == 0
    await gateway.add("p")  # the one panel that may be


async def test_many_who_ask_share_one_trigger_which_is_kept_for_a_while() -> None:
    gateway = Gateway()
    look = gateway.kernel.readiness.look
    assert await asyncio.gather(*(look() for _ in range(50))) == [""] * 50
    gateway.now_s += KEPT_S / 2
    assert await look() == ""
    assert len(gateway.jobs) == 1
    gateway.now_s += KEPT_S / 2
    assert await look() == ""
    assert len(gateway.jobs) == 2


async def test_a_caller_that_gives_up_takes_the_answer_from_nobody() -> None:
    gateway = Gateway()
    first = asyncio.create_task(gateway.kernel.readiness.look())
    second = asyncio.create_task(gateway.kernel.readiness.look())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ""


async def test_without_a_worker_nothing_is_submitted() -> None:
    gateway = Gateway(workers=False)
    assert await gateway.kernel.readiness.look() == "no worker is connected that can run a job"
    assert gateway.kernel.unanswered == 0
    gateway.start_workers()
    gateway.now_s += KEPT_S
    assert await gateway.kernel.readiness.look() == ""


async def test_a_worker_that_does_not_answer_is_waited_for_once_and_given_no_second_trigger() -> None:
    gateway = Gateway()
    readiness = impatient(gateway)
    gateway.respond_own = lambda number: None
    for _ in range(3):
        assert "has not been answered within" in await readiness.look()
        gateway.now_s += KEPT_S
    assert (len(gateway.jobs), gateway.held) == (1, 1)
    gateway.respond_own = lambda number: completed(number + 1)
    gateway.answer_held(completed(1 << 31))
    await gateway.settle()
    assert await readiness.look() == ""
    assert len(gateway.jobs) == 2, "the late answer says nothing of now"


async def test_a_trigger_that_has_no_turn_is_given_up_like_any_other() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_timeout_s=5.0))
    readiness = impatient(gateway)
    gateway.compiling = False
    assert await readiness.look()
    assert gateway.kernel.unanswered == 1
    await gateway.wait(6.0)
    assert gateway.kernel.unanswered == 0


@pytest.mark.parametrize(
    "lie",
    [
        completed(0),
        completed((1 << 31), setting("k", 1)),
        completed((1 << 31), events={"e": 1}),
        Suspended(Usage(), (), b"image"),
    ],
    ids=["value", "mutation", "event", "suspension"],
)
async def test_a_worker_that_claims_what_the_handler_cannot_do_is_found_out(lie: Outcome) -> None:
    gateway = Gateway()
    gateway.respond_own = lambda number: None
    look = asyncio.create_task(gateway.kernel.readiness.look())
    await gateway.settle()
    (job,) = gateway.jobs
    run = gateway.dispatcher.accept(WORKER, m.Result(job.job, lie), gateway.now_s)
    assert run is not None
    assert not gateway.kernel.finish(run, lie)
    gateway.request_turn()
    assert await look == "a worker answered a trigger of the gateway's own wrongly"
    assert gateway.journal.position == 0


async def test_a_failure_is_told_by_its_reason_and_not_in_the_workers_words() -> None:
    gateway = Gateway()
    gateway.respond_own = lambda number: FAILED
    assert await gateway.kernel.readiness.look() == "a trigger of the gateway's own failed: TIMEOUT"
    assert gateway.kernel.counters.failed[Reason.TIMEOUT] == 0


async def test_a_trigger_that_no_worker_survives_is_not_counted_among_those_of_clients() -> None:
    gateway = Gateway()
    gateway.respond_own = lambda number: None
    look = asyncio.create_task(gateway.kernel.readiness.look())
    for worker in (WORKER, WorkerId(b"second")):
        await gateway.settle()
        gateway.dispatcher.exited(POOL, worker, gateway.now_s)
        gateway.now_s += 0.1
        gateway.dispatcher.hello(WorkerId(b"second"), m.Hello("sandbox", POOL, 2, {}), gateway.now_s)
        gateway.request_turn()
    assert await look == "a trigger of the gateway's own failed: WORKER_LOST"
    assert gateway.kernel.counters.failed[Reason.WORKER_LOST] == 0


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_journal_that_cannot_be_written_is_told(hangs: bool) -> None:
    journal = Broken()
    journal.hangs = hangs
    reason = await impatient(Gateway(journal)).look()
    assert reason.startswith("whoever writes the journal" if hangs else "the journal cannot be written")
    assert "disk" not in reason


async def test_the_answer_waits_until_what_was_done_before_it_is_durable() -> None:
    journal = MemoryJournal()
    gateway = Gateway(journal)
    resident = await gateway.add("p")
    journal.hold = True
    gateway.submit(resident, {"set": {"k": 1}})
    await gateway.settle()
    look = asyncio.create_task(gateway.kernel.readiness.look())
    await gateway.settle()
    assert not look.done()
    journal.release(journal.position)
    assert await look == ""


async def test_closing_is_told_at_once_and_full_queues_are_told() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_total=1))
    resident = await gateway.add("p")
    gateway.respond = lambda call: None
    gateway.submit(resident)
    await gateway.settle()
    assert "the queue of the gateway is full" in await gateway.kernel.readiness.look()
    gateway.kernel.intake.closing = True
    assert await gateway.kernel.readiness.look() == "the gateway is shutting down"


async def test_panels_of_labels_are_tried_where_no_others_can_be_run() -> None:
    gateway = Gateway(workers=False)
    gateway.start_workers()
    assert await gateway.kernel.readiness.look() == ""
    gateway.dispatcher.hello(WorkerId(POOL), m.Hello("pool", b"", 1, {}, labels=("gpu",)), gateway.now_s)
    gateway.now_s += KEPT_S
    gateway.dispatcher.heard(WORKER, gateway.now_s)
    assert gateway.dispatcher.label_served() == "gpu"
    assert await gateway.kernel.readiness.look() == ""
    gateway.dispatcher.lost(WorkerId(PoolId(POOL)), gateway.now_s)
    assert gateway.dispatcher.label_served() == ""
