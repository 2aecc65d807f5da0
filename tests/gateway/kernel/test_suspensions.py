"""Handlers that wait: parked, answered, resumed, cancelled, deleted, replaced, and found again after a
restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from panels_gateway.journal.local import open_local
from panels_gateway.journal.records import Parked, Ran, Returned, Unparked
from panels_gateway.kernel import resuming as module
from panels_gateway.kernel import turn as turns
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import ResidentLimits
from panels_gateway.kernel.suspensions import SuspensionLimits
from panels_gateway.panels.panel import StateLimits
from panels_gateway.panels.trigger import Failure, Refused, Succeeded
from panels_shared.errors import Code, RequestError
from panels_shared.messages import Resume
from panels_shared.outcome import ExtensionCall, Outcome, Reason, Suspended, Usage
from tests.support.gateway import Call, Caller, Gateway
from tests.support.waiting import (
    ASK,
    Ledger,
    act,
    advance,
    asking,
    failed,
    got,
    ledger,
    only_suspension,
    replace,
    reply,
    restart,
    sleeping,
    time_of,
    tool,
)

if TYPE_CHECKING:
    from panels_gateway.journal.memory import MemoryJournal

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway(Ledger(), act)
    with time_of(made):
        yield made


# -- one handler -------------------------------------------------------------------------------------


async def test_handler_that_waits_is_answered_once_and_its_effects_leave_at_each_step(
    gateway: Gateway,
) -> None:
    resident = await gateway.add()
    _, socket = gateway.connect(resident)
    caller = gateway.submit(resident, asking(set={"n": 1}, then={"set": {"n": 2}}))
    await gateway.settle()
    assert caller.answers == []
    (progress,) = caller.progresses
    suspension = only_suspension(resident)
    assert (progress.suspension, progress.extension, progress.method, progress.steps) == (
        suspension.name, "human", "ask", 1,
    )  # fmt: skip
    assert gateway.state(resident) == {"n": 1}
    await reply(gateway, suspension, "yes")
    assert [got(answer) for answer in caller.answers] == [[[1, True, "yes"]]]
    assert gateway.state(resident) == {"n": 2}
    assert socket.words == ["CONNECTED 0", "PATCH 1", "EVENT 1", "PATCH 2"]
    assert resident.waiting == {}
    assert gateway.kernel.suspensions.count == 0


async def test_step_is_one_batch_and_its_calls_are_made_when_that_is_durable() -> None:
    gateway = Gateway(Ledger(), act)
    with time_of(gateway):
        resident = await gateway.add()
        journal = ledger(gateway)
        journal.hold = True
        caller = gateway.submit(resident, sleeping(0, {"set": {"n": 2}}, set={"n": 1}), key="k")
        await gateway.settle()
        kinds = [type(record) for record in journal.batches[-1].records]
        assert kinds == [Ran, Parked]
        await advance(gateway, 1)
        assert len(gateway.jobs) == 1
        journal.release(journal.position)
        await gateway.settle()
        await advance(gateway, 0)
        journal.release(journal.position)
        await gateway.settle()
        assert [type(record) for record in journal.batches[-2].records] == [Returned]
        assert [type(record) for record in journal.batches[-1].records] == [Ran, Unparked]
        assert got(caller.last) == [[1, True, None]]


async def test_step_is_never_cut_by_the_bound_of_a_batch(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_BATCH_RECORDS", 9)
    resident = await gateway.add()
    for number in range(40):
        script = asking(set={"n": number}) if number % 3 == 0 else {"set": {"n": number}}
        gateway.submit(resident, script, key=f"k{number}")
    await gateway.settle()
    parked = 0
    for batch in ledger(gateway).batches:
        kinds = [type(record) for record in batch.records]
        parked += kinds.count(Parked)
        for before, kind in zip([None, *kinds], kinds, strict=False):
            assert kind is not Parked or before is Ran
    assert parked == 14


async def test_large_images_of_one_turn_are_in_several_batches(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MAX_BATCH_BYTES", 100)
    resident = await gateway.add()
    for _ in range(3):
        gateway.submit(resident, asking())
    await gateway.settle()
    parked = [batch for batch in ledger(gateway).batches if any(isinstance(r, Parked) for r in batch.records)]
    # and each with the effects of its step
    assert [[type(record) for record in batch.records] for batch in parked] == [[Ran, Parked]] * 3


async def test_history_shows_the_args_of_the_trigger_at_each_step(gateway: Gateway) -> None:
    resident = await gateway.add()
    script = asking(set={"n": 1}, then={"set": {"n": 2}})
    gateway.submit(resident, script)
    await gateway.settle()
    await reply(gateway, only_suspension(resident), 1)
    ran = [record for record in ledger(gateway).records if isinstance(record, Ran)]
    assert [json.loads(record.args) for record in ran] == [script, script]


async def test_answer_is_recorded_before_the_handler_gets_it(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, asking())
    await gateway.settle()
    seen: list[int] = []

    def look(call: Call) -> Outcome:
        seen.append(sum(isinstance(record, Returned) for record in ledger(gateway).records))
        return act(call)

    gateway.respond = look
    await reply(gateway, only_suspension(resident), 1)
    assert seen == [1]


async def test_answers_that_come_while_the_handler_runs_are_kept_for_the_next_time(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(ASK, ASK, ASK))
    await gateway.settle()
    suspension = only_suspension(resident)
    gateway.respond = lambda call: None
    await reply(gateway, suspension, "b", 2)
    assert gateway.held == 1
    await reply(gateway, suspension, "a", 1)
    await reply(gateway, suspension, "c", 3)
    assert gateway.held == 1
    gateway.respond = act
    kept = json.loads(gateway.jobs[-1].image if isinstance(gateway.jobs[-1], Resume) else b"")
    kept["open"], kept["got"] = [1, 3], [[2, True, "b"]]
    gateway.answer_held(Suspended(Usage(), (), json.dumps(kept).encode()))
    await gateway.settle()
    assert got(caller.last) == [[2, True, "b"], [1, True, "a"], [3, True, "c"]]
    assert len(gateway.jobs) == 3


async def test_answers_that_nobody_waits_for_change_nothing(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(ASK, ASK))
    await gateway.settle()
    suspension, answered = only_suspension(resident), gateway.kernel.suspensions.answered
    before = len(ledger(gateway).records)
    assert not answered(suspension, 3, ok=True, value=b"1")
    assert answered(suspension, 1, ok=True, value=b"1")
    assert not answered(suspension, 1, ok=True, value=b"2")
    await gateway.settle()
    assert not answered(suspension, 1, ok=True, value=b"3")
    await reply(gateway, suspension, "end")
    assert not answered(suspension, 2, ok=True, value=b"4")
    assert got(caller.last) == [[1, True, 1], [2, True, "end"]]
    returned = [r for r in ledger(gateway).records[before:] if isinstance(r, Returned)]
    assert [(record.call, record.value) for record in returned] == [(1, b"1"), (2, b'"end"')]


async def test_race_ends_with_the_first_answer_and_the_rest_is_cancelled(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(ASK, ("time", "sleep", [1000]), race=True))
    await gateway.settle()
    await advance(gateway, 1.5)
    assert got(caller.last) == [[2, True, None]]
    assert resident.waiting == {}


async def test_other_triggers_run_while_a_handler_waits(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, asking())
    await gateway.settle()
    assert isinstance(await gateway.put(resident, n=1), Succeeded)


async def test_failure_says_how_many_steps_had_been_committed(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(then=asking(then={"fail": "no"})))
    await gateway.settle()
    for _ in range(2):
        await reply(gateway, only_suspension(resident), 1)
    assert failed(caller.last) == (Reason.HANDLER_ERROR, 2)
    assert [progress.steps for progress in caller.progresses] == [1, 2]
    assert len(caller.answers) == 1


async def test_refused_commit_of_a_segment_ends_the_handler() -> None:
    limits = KernelLimits(residents=ResidentLimits(state=StateLimits(bytes=60)))
    gateway = Gateway(Ledger(), act, limits=limits)
    resident = await gateway.add()
    large = {"set": {"n": "x" * 100}}
    first = gateway.submit(resident, asking(**large))
    await gateway.settle()
    assert isinstance(first.last, Failure)
    assert first.last.outcome.reason is Reason.LIMIT_EXCEEDED
    caller = gateway.submit(resident, asking(then=asking(**large)))
    await gateway.settle()
    await reply(gateway, only_suspension(resident), 1)
    assert failed(caller.last) == (Reason.LIMIT_EXCEEDED, 1)
    assert (resident.waiting, gateway.kernel.suspensions.count) == ({}, 0)


# -- limits, deadlines, ends -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "words"),
    [(SuspensionLimits(per_panel=2), "of a panel"), (SuspensionLimits(total=2), "in all panels")],
)
async def test_handlers_that_wait_are_bounded(limits: SuspensionLimits, words: str) -> None:
    gateway = Gateway(Ledger(), act, limits=KernelLimits(suspensions=limits))
    resident = await gateway.add()
    callers = [gateway.submit(resident, asking(then=asking(), set={"n": n})) for n in range(3)]
    await gateway.settle()
    refused = callers[2].last
    assert isinstance(refused, Failure)
    assert refused.outcome.reason is Reason.LIMIT_EXCEEDED
    assert words in refused.outcome.message
    assert gateway.state(resident) == {"n": 1}
    # those that wait may wait again
    for suspension in list(resident.waiting.values()):
        await reply(gateway, suspension, 1)
    assert [caller.answers for caller in callers[:2]] == [[], []]


@pytest.mark.parametrize("words", ["of a panel", "in all panels"])
async def test_bytes_of_handlers_that_wait_are_bounded(words: str) -> None:
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    first = gateway.submit(resident, asking(then=asking(then={"set": {"n": "x" * 200}})))
    await gateway.settle()
    suspensions = gateway.kernel.suspensions
    size = only_suspension(resident).image_bytes
    assert (suspensions.images.total, suspensions.images.of(resident.panel.number)) == (size, size)
    bound = size + 10
    suspensions.limits = (
        SuspensionLimits(bytes_per_panel=bound)
        if words == "of a panel"
        else SuspensionLimits(total_bytes=bound)
    )
    refused = await gateway.trigger(resident, asking(set={"n": 1}))
    assert isinstance(refused, Failure)
    assert refused.outcome.reason is Reason.LIMIT_EXCEEDED
    assert f"at most {bound} bytes" in refused.outcome.message
    assert words in refused.outcome.message
    assert gateway.state(resident) == {}
    # one that keeps less may wait again, and one that has ended makes room
    await reply(gateway, only_suspension(resident), 1)
    assert only_suspension(resident).image_bytes < size + 10
    await reply(gateway, only_suspension(resident), 1)
    assert isinstance(first.last, Succeeded)
    assert (suspensions.images.total, suspensions.images.of(resident.panel.number)) == (0, 0)


@pytest.mark.parametrize("again", [False, True])
async def test_handler_that_waits_for_nothing_cannot_be(again: bool) -> None:
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    caller = Caller()
    if again:
        gateway.submit(resident, asking(), caller=caller)
        await gateway.settle()
    gateway.respond = lambda call: Suspended(Usage(), (), b"image")
    if again:
        await reply(gateway, only_suspension(resident), 1)
    else:
        gateway.submit(resident, caller=caller)
        await gateway.settle()
    assert isinstance(caller.last, Failure)
    assert caller.last.outcome.reason is Reason.INVALID_RESULT
    assert resident.waiting == {}


async def test_handler_that_waits_again_with_more_than_fits_ends() -> None:
    gateway = Gateway(Ledger(), act)
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    suspensions, suspension = gateway.kernel.suspensions, only_suspension(resident)
    suspensions.limits = SuspensionLimits(bytes_per_panel=suspension.image_bytes + 10)
    large = ExtensionCall(2, "human", "ask", b"[]")
    gateway.respond = lambda call: Suspended(Usage(), (large,), b"x" * (suspension.image_bytes + 11))
    await reply(gateway, suspension, 1)
    assert failed(caller.last) == (Reason.LIMIT_EXCEEDED, 1)
    assert (resident.waiting, suspensions.images.total) == ({}, 0)


async def test_bytes_are_known_after_a_restart(gateway: Gateway) -> None:
    for name in "ab":
        gateway.submit(await gateway.add(name), asking())
    await gateway.settle()
    before = gateway.kernel.suspensions.images
    following = await restart(gateway)
    with time_of(following):
        found = following.kernel.suspensions.images
        assert found.total == before.total > 0
        for name in "ab":
            resident = await following.open(name)
            assert only_suspension(resident).record.image == b""
            assert found.of(resident.panel.number) == only_suspension(resident).image_bytes > 0
            await reply(following, only_suspension(resident), 1)
        assert found.total == 0


async def test_failures_of_handlers_that_wait_are_counted(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, asking())
    await gateway.settle()
    gateway.kernel.suspensions.fail(only_suspension(resident), Reason.CANCELLED, "no")
    await gateway.settle()
    assert gateway.kernel.counters.failed[Reason.CANCELLED] == 1


async def test_handler_is_over_at_its_deadline() -> None:
    limits = KernelLimits(suspensions=SuspensionLimits(lifetime_ms=5_000))
    gateway = Gateway(Ledger(), act, limits=limits)
    with time_of(gateway):
        resident = await gateway.add()
        caller = gateway.submit(resident, asking(then=asking()))
        await gateway.settle()
        await advance(gateway, 4.9)
        suspension = only_suspension(resident)
        await reply(gateway, suspension, 1)
        assert caller.answers == []
        await advance(gateway, 0.2)
        assert failed(caller.last) == (Reason.TIMEOUT, 2)
        await advance(gateway, 10)
        assert len(caller.answers) == 1
        assert isinstance(ledger(gateway).records[-1], Unparked)


async def test_cancelled_handler_s_segment_is_undone(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(then={"set": {"n": 1}}), key="k")
    await gateway.settle()
    suspension = only_suspension(resident)
    gateway.respond = lambda call: None
    await reply(gateway, suspension, 1)
    for _ in range(2):
        gateway.kernel.suspensions.fail(suspension, Reason.CANCELLED, "no")
    gateway.answer_held()
    await gateway.settle()
    assert failed(caller.last) == (Reason.CANCELLED, 1)
    assert len(caller.answers) == 1
    assert gateway.state(resident) == {}
    gateway.respond = act
    assert failed(await gateway.trigger(resident, asking(then={"set": {"n": 1}}), key="k")) == (
        Reason.CANCELLED,
        1,
    )


async def test_deleted_panel_takes_its_handlers_with_it(gateway: Gateway) -> None:
    resident = await gateway.add()
    callers = [gateway.submit(resident, asking(), key=f"k{n}") for n in range(2)]
    joined = gateway.submit(resident, asking(), key="k0")
    await gateway.settle()
    await reply(gateway, next(iter(resident.waiting.values())), 1)
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert isinstance(callers[1].last, Refused)
    assert callers[1].last.code is Code.PANEL_NOT_FOUND
    assert [len(caller.answers) for caller in (*callers, joined)] == [1, 1, 1]
    assert gateway.kernel.suspensions.count == 0
    found = await ledger(gateway).again()
    assert await found.active_panels() == []
    await gateway.add()


async def test_deleted_panel_with_resumptions_in_the_queue(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RESUMING", 1)
    resident = await gateway.add()
    callers = [gateway.submit(resident, asking()) for _ in range(3)]
    await gateway.settle()
    gateway.respond = lambda call: None
    for suspension in list(resident.waiting.values()):
        await reply(gateway, suspension, 1)
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert all(isinstance(caller.last, Refused) and len(caller.answers) == 1 for caller in callers)
    gateway.respond = act
    other = await gateway.add("other")
    caller = gateway.submit(other, asking())
    await gateway.settle()
    await reply(gateway, only_suspension(other), 2)
    assert got(caller.last) == [[1, True, 2]]


@pytest.mark.parametrize("running", [False, True])
async def test_handler_that_was_replaced_while_it_waited_fails(gateway: Gateway, running: bool) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    if running:
        gateway.respond = lambda call: None
        await reply(gateway, only_suspension(resident), 1)
        gateway.respond = act
    await replace(gateway, tool("t", "/* other */ 1"))
    assert failed(caller.last) == (Reason.RESUME_FAILED, 1)
    assert len(caller.answers) == 1
    assert resident.waiting == {}


@pytest.mark.parametrize("running", [False, True])
async def test_handler_goes_on_when_another_tool_was_replaced(gateway: Gateway, running: bool) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    suspension = only_suspension(resident)
    if running:
        gateway.respond = lambda call: None
        await reply(gateway, suspension, 1)
        gateway.respond = act
    await replace(gateway, tool("t"), tool("u", "/* other */ 1"))
    if not running:
        await reply(gateway, suspension, 1)
    assert got(caller.last) == [[1, True, 1]]


# -- restarts ----------------------------------------------------------------------------------------


async def test_joined_key_gets_the_final_answer(gateway: Gateway) -> None:
    resident = await gateway.add()
    script = asking(set={"n": 1}, then={"set": {"n": 2}})
    first = gateway.submit(resident, script, key="k")
    await gateway.settle()
    second = gateway.submit(resident, script, key="k")
    await reply(gateway, only_suspension(resident), 1)
    assert second.answers == first.answers
    assert await gateway.trigger(resident, script, key="k") == first.last


async def test_joined_key_gets_the_final_answer_after_a_restart(gateway: Gateway) -> None:
    resident = await gateway.add()
    script = asking(set={"n": 1}, then={"set": {"n": 2}})
    gateway.submit(resident, script, key="k")
    await gateway.settle()
    following = await restart(gateway)
    resident = await following.open()
    callers = [following.submit(resident, script, key="k") for _ in range(2)]
    await following.settle()
    assert following.jobs == []
    await reply(following, only_suspension(resident), 1)
    assert got(callers[0].last) == [[1, True, 1]]
    assert callers[1].answers == callers[0].answers
    assert following.state(resident) == {"n": 2}
    third = await restart(following)
    assert await third.trigger(await third.open(), script, key="k") == callers[0].last


async def test_answer_that_was_recorded_is_given_after_a_restart(gateway: Gateway) -> None:
    resident = await gateway.add()
    script = asking(then={"set": {"n": 2}})
    gateway.submit(resident, script, key="k")
    await gateway.settle()
    gateway.respond = lambda call: None
    await reply(gateway, only_suspension(resident), "yes")
    gateway.respond = act
    following = await restart(gateway)
    assert following.state(await following.open()) == {"n": 2}
    assert got(await following.trigger(await following.open(), script, key="k")) == [[1, True, "yes"]]


async def test_sleep_rings_after_a_restart_when_it_would_have(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, sleeping(10_000, {"set": {"n": 1}}))
    await gateway.settle()
    gateway.wall_s += 4
    following = await restart(gateway)
    with time_of(following):
        resident = await following.open()
        await advance(following, 5.9)
        assert following.state(resident) == {}
        await advance(following, 0.2)
        assert following.state(resident) == {"n": 1}


async def test_deadline_goes_on_after_a_restart() -> None:
    limits = KernelLimits(suspensions=SuspensionLimits(lifetime_ms=5_000))
    gateway = Gateway(Ledger(), act, limits=limits)
    with time_of(gateway):
        gateway.submit(await gateway.add(), asking(), key="k")
        await gateway.settle()
        gateway.wall_s += 3
        following = await restart(gateway)
    with time_of(following):
        caller = following.submit(await following.open(), asking(), key="k")
        await advance(following, 1.9)
        assert caller.answers == []
        await advance(following, 0.2)
        assert failed(caller.last) == (Reason.TIMEOUT, 1)


async def test_oldest_deadline_of_all_panels_is_resumed_first_after_a_restart(gateway: Gateway) -> None:
    residents = [await gateway.add(name) for name in "pqr"]
    for resident, name, seconds in zip(residents, "abc", (30, -20, 10), strict=True):
        gateway.wall_s += seconds
        gateway.submit(resident, asking(then={"set": {"last": name}}))
        await gateway.settle()
    gateway.respond = lambda call: None
    for resident in residents:
        await reply(gateway, only_suspension(resident), 1)
    gateway.respond = act
    following = await restart(gateway)
    order = [
        json.loads(job.image)["then"]["set"]["last"] for job in following.jobs if isinstance(job, Resume)
    ]
    assert order == ["b", "c", "a"]


async def test_handler_whose_tool_is_gone_at_a_restart_fails(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, asking(), key="k")
    await gateway.settle()
    suspension = only_suspension(resident)
    journal = ledger(gateway)
    for batch in journal.batches:
        for number, record in enumerate(batch.records):
            if isinstance(record, Parked):
                batch.records[number] = msgspec.structs.replace(record, tool="gone")
    following = await restart(gateway)
    resident = await following.open()
    caller = following.submit(resident, asking(), key="k")
    assert only_suspension(resident).name == suspension.name
    await reply(following, only_suspension(resident), 1)
    assert failed(caller.last) == (Reason.RESUME_FAILED, 1)


async def test_panel_that_cannot_be_read_does_not_hold_up_the_others(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        gateway.submit(await gateway.add(name), sleeping(1_000, {"set": {"n": 1}}))
    await gateway.settle()
    following = Gateway(await ledger(gateway).again(), act)
    gateway.dead = True
    load = following.kernel.residents.open

    async def broken(panel_id: str) -> object:
        if panel_id == "a":
            raise RequestError(Code.INTERNAL, "damaged")
        return await load(panel_id)

    monkeypatch.setattr(following.kernel.residents, "open", broken)
    await following.kernel.suspensions.find_all()
    assert [resident.panel.id for resident in following.kernel.residents] == ["b"]


async def test_panel_stays_in_memory_while_a_handler_waits() -> None:
    gateway = Gateway(Ledger(), act, limits=KernelLimits(residents=ResidentLimits(bytes=0)))
    await gateway.add()
    resident = await gateway.open()
    gateway.submit(resident, asking())
    await gateway.settle()
    await gateway.add("other")
    assert await gateway.open() is resident
    await reply(gateway, only_suspension(resident), 1)
    await gateway.settle()
    assert [found.panel.id for found in gateway.kernel.residents if found is resident] == []


async def test_handler_goes_on_from_a_journal_on_the_disk(tmp_path: Path) -> None:
    script = asking(set={"n": 1}, then=asking(then={"set": {"n": 2}}))
    journal = await open_local(tmp_path, durability="process")
    gateway = Gateway(cast("MemoryJournal", journal), act)
    gateway.submit(await gateway.add(), script, key="k")
    await gateway.settle()
    await reply(gateway, only_suspension(await gateway.open()), "first")
    gateway.dead = True
    await journal.close()
    journal = await open_local(tmp_path, durability="process")
    following = Gateway(cast("MemoryJournal", journal), act)
    await following.kernel.suspensions.find_all()
    resident = await following.open()
    caller = following.submit(resident, script, key="k")
    assert following.state(resident) == {"n": 1}
    following.kernel.calls.answer(only_suspension(resident), None, b'"second"')
    async with asyncio.timeout(30):
        while not caller.answers:  # the image is read in another thread
            await following.settle()
    assert got(caller.last) == [[1, True, "first"], [2, True, "second"]]
    assert following.state(resident) == {"n": 2}
    following.dead = True
    await journal.close()
