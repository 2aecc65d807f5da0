"""Handlers that go on: from the image that was sealed, in order, and so many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
import pytest

from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.journal.journal import JournalError, Waiting
from panels_gateway.journal.records import replace_image
from panels_gateway.kernel import resuming as module
from panels_gateway.kernel.suspensions import SuspensionLimits
from panels_shared.outcome import Outcome, Reason
from tests.support.gateway import Call, Gateway
from tests.support.waiting import (
    Ledger,
    act,
    advance,
    asking,
    failed,
    got,
    only_suspension,
    reply,
    restart,
    time_of,
)

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway(Ledger(), act)
    with time_of(made):
        yield made


# -- images ------------------------------------------------------------------------------------------


async def test_image_leaves_memory_when_it_is_folded_and_is_read_back(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    suspension = only_suspension(resident)
    assert suspension.record.image == b""
    await reply(gateway, suspension, 1)
    assert got(caller.last) == [[1, True, 1]]


@pytest.mark.parametrize("damage", ["image", "seal", "gone", "error"])
async def test_image_that_is_not_what_was_sealed_is_never_offered(
    gateway: Gateway, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    suspension = only_suspension(resident)
    whole = await gateway.journal.waiting(resident.panel.number, suspension.number)
    assert whole is not None

    async def read(panel: int, number: int) -> Waiting | None:
        if damage == "error":
            raise JournalError("the row is damaged")
        return None if damage == "gone" else Waiting(replace_image(whole.parked, whole.parked.image + b" "))

    if damage == "seal":
        suspension.record = msgspec.structs.replace(suspension.record, seal=b"x" * 16)
    else:
        monkeypatch.setattr(gateway.journal, "waiting", read)
    await reply(gateway, suspension, 1)
    assert failed(caller.last) == (Reason.RESUME_FAILED, 1)
    assert len(gateway.jobs) == 1
    assert gateway.kernel.suspensions.count == 0


async def test_image_of_a_gateway_with_another_key_is_never_offered(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, asking(), key="k")
    await gateway.settle()
    following = await restart(gateway, seal_key=b"x" * 32)
    with time_of(following):
        resident = await following.open()
        caller = following.submit(resident, asking(), key="k")
        await reply(following, only_suspension(resident), 1)
        assert failed(caller.last) == (Reason.RESUME_FAILED, 1)
        assert following.jobs == []


# -- many --------------------------------------------------------------------------------------------


async def test_so_many_are_resumed_at_a_time_and_none_is_lost(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RESUMING", 2)
    residents = [await gateway.add(name) for name in "abcd"]
    callers = [gateway.submit(resident, asking()) for resident in residents for _ in range(3)]
    await gateway.settle()
    began = len(gateway.jobs)
    gateway.respond = lambda call: None
    for resident in residents:
        for suspension in list(resident.waiting.values()):
            await reply(gateway, suspension, 1)
    for number in range(12):
        assert gateway.held == min(2, 12 - number)
        gateway.answer_held(None)
        await gateway.settle()
    assert all(len(caller.answers) == 1 for caller in callers)
    assert len(gateway.jobs) - began == 12


async def test_images_that_are_resumed_at_a_time_are_bounded_in_bytes(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = await gateway.add()
    callers = [gateway.submit(resident, asking()) for _ in range(5)]
    await gateway.settle()
    sizes = {suspension.image_bytes for suspension in resident.waiting.values()}
    assert len(sizes) == 1
    monkeypatch.setattr(module, "MAX_RESUMING_BYTES", 2 * sizes.pop() + 1)
    gateway.respond = lambda call: None
    for suspension in list(resident.waiting.values()):
        await reply(gateway, suspension, 1)
    for number in range(5):
        assert gateway.held == min(2, 5 - number)
        gateway.answer_held(None)
        await gateway.settle()
    assert all(len(caller.answers) == 1 for caller in callers)


async def test_image_that_is_larger_than_the_bound_is_resumed_alone(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RESUMING_BYTES", 1)
    resident = await gateway.add()
    callers = [gateway.submit(resident, asking()) for _ in range(3)]
    await gateway.settle()
    gateway.respond = lambda call: None
    for suspension in list(resident.waiting.values()):
        await reply(gateway, suspension, 1)
    for _ in callers:
        assert gateway.held == 1
        gateway.answer_held(None)
        await gateway.settle()
    assert all(len(caller.answers) == 1 for caller in callers)


async def test_earliest_deadline_goes_on_first_whatever_panel_it_is_of(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    residents = [await gateway.add(name) for name in "abc"]
    for resident in (residents[1], residents[2], residents[0]):
        gateway.submit(resident, asking())
        await advance(gateway, 1)
    monkeypatch.setattr(module, "MAX_RESUMING", 0)
    for resident in residents:
        await reply(gateway, only_suspension(resident), 1)
    seen: list[str] = []

    def look(call: Call) -> Outcome:
        seen.append(call.panel_id)
        return act(call)

    gateway.respond = look
    monkeypatch.setattr(module, "MAX_RESUMING", 1)
    gateway.kernel.suspensions.resuming._begin_more()
    await gateway.settle()
    assert seen == ["b", "c", "a"]


async def test_thousands_that_were_replaced_end_without_nesting(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspensions, count = gateway.kernel.suspensions, 1_500
    suspensions.limits = SuspensionLimits(per_panel=count)
    resident = await gateway.add()
    for _ in range(count):
        gateway.submit(resident, asking())
    await gateway.settle()
    waiting = list(resident.waiting.values())
    assert len(waiting) > 1_000
    # as if they had been made by another handler: each is found out when it is offered
    for suspension in waiting:
        suspension.record = msgspec.structs.replace(suspension.record, digest=b"x" * 32, image=b"i")
    resuming = suspensions.resuming
    monkeypatch.setattr(module, "MAX_RESUMING", 0)
    for suspension in waiting:
        suspensions.answered(suspension, 1, ok=True, value=b"1")
    assert (resuming.active, resuming.ready) == (0, len(waiting))
    monkeypatch.undo()
    resuming._begin_more()
    assert (resuming.active, resuming.ready) == (0, 0)
    assert resident.waiting == {}


async def test_resumption_that_meets_a_full_queue_is_tried_again() -> None:
    gateway = Gateway(Ledger(), act, dispatch=DispatchLimits(queue_per_panel=2, window=1))
    with time_of(gateway):
        resident = await gateway.add()
        caller = gateway.submit(resident, asking())
        await gateway.settle()
        gateway.respond = lambda call: None
        others = [gateway.submit(resident, {}) for _ in range(2)]
        await gateway.settle()
        await reply(gateway, only_suspension(resident), 1)
        await advance(gateway, module.RETRY_S)
        assert caller.answers == []
        gateway.respond = act
        for _ in others:
            while gateway.held:
                gateway.answer_held()
                await gateway.settle()
        await advance(gateway, module.RETRY_S)
        assert got(caller.last) == [[1, True, 1]]


async def test_handler_that_ended_while_its_resumption_was_tried_again() -> None:
    gateway = Gateway(Ledger(), act, dispatch=DispatchLimits(queue_per_panel=1, window=1))
    with time_of(gateway):
        resident = await gateway.add()
        caller = gateway.submit(resident, asking())
        await gateway.settle()
        gateway.respond = lambda call: None
        gateway.submit(resident, {})
        await gateway.settle()
        suspension = only_suspension(resident)
        await reply(gateway, suspension, 1)
        gateway.kernel.suspensions.fail(suspension, Reason.CANCELLED, "no")
        await advance(gateway, module.RETRY_S)
        assert failed(caller.last) == (Reason.CANCELLED, 1)
        assert gateway.kernel.suspensions.resuming.active == 0


async def test_handler_that_ended_while_its_image_was_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, asking())
    await gateway.settle()
    suspension = only_suspension(resident)
    may_read = asyncio.Event()
    read = gateway.journal.waiting

    async def slow(panel: int, number: int) -> Waiting | None:
        await may_read.wait()
        return await read(panel, number)

    monkeypatch.setattr(gateway.journal, "waiting", slow)
    await reply(gateway, suspension, 1)
    gateway.kernel.suspensions.fail(suspension, Reason.CANCELLED, "no")
    may_read.set()
    await gateway.settle()
    assert failed(caller.last) == (Reason.CANCELLED, 1)
    assert gateway.kernel.suspensions.resuming.active == 0
