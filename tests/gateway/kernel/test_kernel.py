"""The kernel as a whole: what waits for the disk, what a failing journal means, and a random life that ends
consistent.
"""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from panels_gateway.clients.recovery import Asked
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Ran
from panels_gateway.kernel.kernel import Kernel
from panels_gateway.panels.trigger import Succeeded
from panels_shared.outcome import Completed
from tests.support.gateway import Caller, Gateway, Socket

pytestmark = pytest.mark.anyio

TRIGGER = '{"type":"TRIGGER","tool":"t","requestId":"r","args":{"set":{"n":1},"emit":{"e":1}}}'


async def held() -> tuple[Gateway, MemoryJournal]:
    """A gateway whose journal is durable only when it is told so, with one panel that is durable."""
    journal = MemoryJournal(hold=True)
    gateway = Gateway(journal)
    await gateway.add(state={"n": 0})
    journal.release(journal.position)
    await gateway.settle()
    return gateway, journal


async def test_nothing_leaves_before_its_batch_is_durable() -> None:
    gateway, journal = await held()
    resident = await gateway.open()
    connection, socket = gateway.connect(resident)
    _, watcher = gateway.connect(resident)
    await gateway.settle()
    connection.receive_text(TRIGGER)
    await gateway.settle()
    assert (socket.words, watcher.words) == (["CONNECTED 0"], ["CONNECTED 0"])
    journal.release(journal.position)
    assert socket.words == ["CONNECTED 0", "PATCH 1", "EVENT 1", "RESULT 1"]
    assert watcher.words == ["CONNECTED 0", "PATCH 1", "EVENT 1"]


async def test_later_turns_run_behind_one_that_waits_and_leave_in_order() -> None:
    gateway, journal = await held()
    resident = await gateway.open()
    connection, socket = gateway.connect(resident)
    await gateway.settle()
    before = journal.position
    for number in range(3):
        connection.receive_text(TRIGGER.replace('"n":1', f'"n":{number}'))
        await gateway.settle()
    assert gateway.state(resident) == {"n": 2}
    connection.receive_text('{"type":"PING"}')
    await gateway.settle()
    assert socket.words == ["CONNECTED 0"]
    journal.release(before + 1)
    assert socket.words == ["CONNECTED 0", "PATCH 1", "EVENT 1", "RESULT 1"]
    journal.release(before + 3)
    assert socket.words[-4:] == ["PATCH 3", "EVENT 3", "RESULT 3", "PONG"]


async def test_connected_and_what_was_missed_wait_for_what_they_show() -> None:
    gateway, journal = await held()
    resident = await gateway.open()
    gateway.submit(resident, {"set": {"n": 1}})
    await gateway.settle()
    _, fresh = gateway.connect(resident)
    asked = Asked(resumes=True, epoch=resident.panel.epoch, since=0)
    _, resumed = await gateway.resume(resident, asked)
    await gateway.settle()
    assert fresh.words == resumed.words == []
    journal.release(journal.position)
    assert fresh.words == ["CONNECTED 1"]
    assert resumed.words == ["CONNECTED 1", "PATCH 1"]


async def test_unanswered_counts_triggers_and_turns_that_have_not_left() -> None:
    gateway, journal = await held()
    resident = await gateway.open()
    connection, _ = gateway.connect(resident)
    await gateway.settle()
    connection.receive_text(TRIGGER)
    assert gateway.kernel.unanswered == 1
    await gateway.settle()
    assert (gateway.dispatcher.unanswered, gateway.kernel.unanswered) == (0, 1)
    journal.release(journal.position)
    assert gateway.kernel.unanswered == 0


async def test_failing_append_lets_nothing_leave_and_is_reported() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    connection, socket = gateway.connect(resident)
    await gateway.settle()
    gateway.journal.closed = True
    connection.receive_text(TRIGGER)
    await gateway.settle()
    assert len(gateway.failures) == 1
    assert socket.words == ["CONNECTED 0"]


async def test_failure_that_nobody_waited_for_is_reported() -> None:
    gateway = Gateway()
    error = JournalError("fsync failed")
    gateway.journal.fail(error)
    assert gateway.failures == [error]


async def test_failure_is_raised_where_nobody_has_said_what_to_do() -> None:
    gateway = Gateway()
    kernel = Kernel(gateway.dispatcher, gateway.journal)
    with pytest.raises(JournalError):
        kernel.on_failure(JournalError("fsync failed"))


async def test_ready_follows_the_workers_and_the_shutdown() -> None:
    gateway = Gateway(workers=False)
    ready = [gateway.kernel.ready]
    gateway.start_workers()
    ready.append(gateway.kernel.ready)
    gateway.kernel.intake.closing = True
    ready.append(gateway.kernel.ready)
    assert ready == [False, True, False]


async def test_connections_are_counted_once() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    connections = [gateway.connect(resident)[0] for _ in range(2)]
    connections[0].lost()
    connections[0].lost()
    gateway.kernel.connection_lost(connections[0])
    counters = gateway.kernel.counters
    assert (counters.connections, counters.connections_total) == (1, 2)
    assert len(gateway.kernel.room(resident.panel)) == 1


async def test_flushes_are_measured_when_they_are_sampled() -> None:
    gateway = Gateway()
    stages = gateway.kernel.stages
    stages.flushes = stages.again = 1
    gateway.kernel.flush()
    assert any(
        sample.suffix == "_count" and sample.label == "send" and sample.value for sample in stages.samples()
    )


@pytest.mark.parametrize("seed", range(8))
async def test_all_who_watch_agree_with_the_panel_after_a_random_life(seed: int) -> None:
    """Answers, state, versions and history tell the same story, whatever waits for the disk at any time."""
    choose = random.Random(seed)
    journal = MemoryJournal(hold=True)
    gateway = Gateway(journal)
    resident = await gateway.add(state={})
    clients: list[tuple[Socket, dict[str, object], int]] = []
    caller = Caller()
    for number in range(60):
        what = choose.randrange(6)
        if what < 3:
            args = {"set": {choose.choice("abc"): number}} if what else {"emit": {"e": number}}
            gateway.submit(resident, args, caller=caller, name=str(number))
        elif what == 3:
            _, socket = gateway.connect(resident)
            clients.append((socket, {}, 0))
        elif what == 4 and journal.durable < journal.position:
            journal.release(choose.randint(journal.durable, journal.position))
        else:
            await gateway.settle()
    await gateway.settle()
    journal.release(journal.position)
    await gateway.settle()
    seqs = [answer.seq for answer in caller.answers if isinstance(answer, Succeeded)]
    assert seqs == list(range(1, len(caller.answers) + 1))
    for socket, _, _ in clients:
        connected, *rest = socket.heard
        state, seq = connected["state"], connected["seq"]
        for message in rest:
            assert message["seq"] == seq + 1
            seq = message["seq"]
            for mutation in message.get("mutations", ()):
                state[mutation["key"]] = mutation["value"]
        assert (state, seq) == (gateway.state(resident), resident.panel.seq)
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=1 << 30)
    assert page is not None
    assert [record.seq for record in page.commits] == seqs
    told = [record.outcome for record in page.commits if isinstance(record, Ran)]
    assert told == [answer.outcome for answer in caller.answers if isinstance(answer, Succeeded)]
    assert all(isinstance(outcome, Completed) for outcome in told)
    assert json.loads(resident.panel.state_json()) == gateway.state(resident)
    await asyncio.sleep(0)
