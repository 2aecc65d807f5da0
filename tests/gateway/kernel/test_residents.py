"""Panels come into memory when they are wanted and go when they are not, and nobody notices."""

from __future__ import annotations

import asyncio

import pytest

from panels_gateway.access.reach import EVERYTHING
from panels_gateway.journal.journal import StoredPanel
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel import residents as module
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import KEY_BYTES, RESIDENT_BYTES, ResidentLimits
from panels_gateway.panels.trigger import Refused, Succeeded
from panels_shared.errors import Code, RequestError
from tests.support.gateway import Caller, Gateway, completed

pytestmark = pytest.mark.anyio

TIGHT = KernelLimits(residents=ResidentLimits(bytes=0))


class Unfolded(MemoryJournal):
    """Folds only when it is told to, and counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0

    def _schedule(self) -> None:
        return

    def fold(self) -> None:
        self._fold()

    async def load(self, panel_id: str) -> StoredPanel | None:
        self.loads += 1
        await asyncio.sleep(0)
        return await super().load(panel_id)


async def listed(gateway: Gateway) -> list[str]:
    page, _ = await gateway.kernel.listing.page("", 1_000, EVERYTHING)
    return [panel.id for panel in page]


def is_here(gateway: Gateway, panel_id: str = "p") -> bool:
    return any(resident.panel.id == panel_id for resident in gateway.kernel.residents)


# -- coming and going --------------------------------------------------------------------------------


async def test_panel_that_was_put_away_comes_back_as_it_was() -> None:
    gateway = Gateway(limits=TIGHT)
    await gateway.add(state={"n": 0}, title="T", metadata={"a": [1]})
    before = await gateway.open()
    await gateway.put(before, n=1)
    assert not is_here(gateway)
    after = await gateway.open()
    assert after is not before
    assert gateway.state(after) == {"n": 1}
    old, new = before.panel, after.panel
    assert (new.seq, new.epoch, new.number, new.created_ms) == (
        old.seq,
        old.epoch,
        old.number,
        old.created_ms,
    )
    assert (new.definition.title, new.definition.tools) == ("T", old.definition.tools)
    assert new.key != old.key
    answer = await gateway.trigger(after, {"set": {"n": 2}})
    assert isinstance(answer, Succeeded)
    assert answer.seq == 2
    assert (gateway.kernel.counters.loaded, gateway.kernel.counters.put_away) == (2, 3)


async def test_panel_in_use_stays_however_little_memory_there_may_be() -> None:
    gateway = Gateway(limits=TIGHT)
    resident = await gateway.add()
    resident = await gateway.open()
    connection, _ = gateway.connect(resident)
    await gateway.add("other")
    assert is_here(gateway)
    connection.lost()
    resident.holds += 1
    await gateway.add("other2")
    assert is_here(gateway)
    resident.holds -= 1
    gateway.respond = lambda call: None
    gateway.submit(resident, key="k")
    await gateway.settle()
    await gateway.add("other3")
    assert is_here(gateway)
    gateway.answer_held()
    await gateway.settle()
    assert not is_here(gateway)


async def test_panel_with_a_trigger_under_way_stays() -> None:
    gateway = Gateway(limits=TIGHT)
    await gateway.add()
    gateway.respond = lambda call: None
    caller = gateway.submit(await gateway.open())
    await gateway.settle()
    await gateway.add("other")
    assert is_here(gateway)
    gateway.answer_held(completed(1))
    await gateway.settle()
    assert isinstance(caller.last, Succeeded)


async def test_panel_is_not_put_away_while_anything_of_it_is_unfolded() -> None:
    journal = Unfolded()
    gateway = Gateway(journal, limits=TIGHT)
    resident = await gateway.add()
    await gateway.put(resident, n=1)
    await gateway.add("other")
    assert is_here(gateway)
    assert (resident.unfolded, len(resident.tail)) == (2, 1)
    journal.fold()
    assert (resident.unfolded, len(resident.tail)) == (0, 0)
    assert not is_here(gateway)
    assert gateway.state(await gateway.open()) == {"n": 1}


async def test_what_is_folded_is_let_go_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLDED_AT_ONCE", 2)
    journal = Unfolded()
    gateway = Gateway(journal, limits=TIGHT)
    resident = await gateway.add()
    for n in range(4):
        await gateway.put(resident, n=n)
    journal.fold()
    assert (resident.unfolded, len(resident.tail)) == (3, 3)
    await gateway.settle()
    assert (resident.unfolded, len(resident.tail)) == (0, 0)
    assert not is_here(gateway)


async def test_panels_used_longest_ago_go_first() -> None:
    gateway = Gateway(limits=KernelLimits(residents=ResidentLimits(bytes=3 * RESIDENT_BYTES)))
    for panel_id in "abc":
        await gateway.add(panel_id)
    await gateway.open("a")
    await gateway.add("d")
    assert [resident.panel.id for resident in gateway.kernel.residents] == ["c", "a", "d"]
    assert gateway.kernel.residents.state_bytes == 3 * RESIDENT_BYTES
    assert len(gateway.kernel.residents) == 3


async def test_memory_is_counted_by_states_as_they_grow_and_go() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={"n": 0})
    assert gateway.kernel.residents.state_bytes == RESIDENT_BYTES + 2
    await gateway.put(resident, n=12345)
    assert gateway.kernel.residents.state_bytes == RESIDENT_BYTES + 6
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert gateway.kernel.residents.state_bytes == 0


async def test_memory_counts_the_idempotency_keys_that_a_panel_remembers() -> None:
    gateway = Gateway(limits=TIGHT)
    await gateway.add()
    for number in range(3):
        await gateway.trigger(await gateway.open(), key=f"k{number}")
    await gateway.settle()
    assert not is_here(gateway)
    assert (await gateway.open()).panel.id == "p"
    assert gateway.kernel.residents.state_bytes == RESIDENT_BYTES + 3 * KEY_BYTES


# -- opening -----------------------------------------------------------------------------------------


async def test_open_loads_once_for_all_who_ask_and_gives_all_the_same() -> None:
    journal = Unfolded()
    gateway = Gateway(journal, limits=TIGHT)
    await gateway.add()
    journal.fold()
    journal.loads = 0
    opens = [asyncio.create_task(gateway.open()) for _ in range(3)]
    await asyncio.sleep(0)
    opens[0].cancel()
    first, second = await asyncio.gather(*opens[1:])
    assert first is second
    assert journal.loads == 1
    assert await gateway.kernel.residents.open("none") is None


async def test_open_gives_what_is_in_memory_even_when_others_push_it_out_at_once() -> None:
    journal = Unfolded()
    gateway = Gateway(journal, limits=TIGHT)
    for panel_id in "abc":
        await gateway.add(panel_id)
    journal.fold()

    async def use(panel_id: str) -> None:
        resident = await gateway.open(panel_id)
        assert gateway.kernel.residents.of(resident.panel) is resident

    await asyncio.gather(*[use(panel_id) for panel_id in "abcabc"])


async def test_open_while_the_panel_is_being_made_gives_the_one_that_was_made() -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    opening = asyncio.create_task(gateway.kernel.residents.open("p"))
    await asyncio.sleep(0)
    made = await gateway.add()
    found = await opening
    assert found in (None, made)
    assert await gateway.open() is made


async def test_open_says_that_a_stored_panel_cannot_be_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(limits=TIGHT)
    await gateway.add()
    number = gateway.journal._numbers["p"]
    stored = gateway.journal._panels[number]
    right = stored.definition
    for damaged in (
        b"{",
        b"{}",
        right.replace(b'"digest":"', b'"digest":"00'),
        right.replace(b"wat", b"xx")[:-9],
    ):
        stored.definition = damaged
        with pytest.raises(RequestError) as caught:
            await gateway.kernel.residents.open("p")
        assert caught.value.code is Code.INTERNAL
        assert "cannot be loaded" in caplog.text
        caplog.clear()
    assert gateway.kernel.residents.damaged == {"p"}
    stored.definition = right
    assert (await gateway.open()).panel.id == "p"
    assert gateway.kernel.residents.damaged == set()


async def test_open_does_not_bring_back_what_was_deleted() -> None:
    journal = Unfolded()
    gateway = Gateway(journal)
    resident = await gateway.add()
    journal.fold()
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert await gateway.kernel.residents.open("p") is None
    assert await listed(gateway) == []
    journal.fold()
    assert not gateway.kernel.residents.is_deleted(resident.panel.number)
    assert await gateway.kernel.residents.open("p") is None


async def test_open_does_not_bring_back_what_was_deleted_and_folded_while_it_was_read() -> None:
    class Slow(Unfolded):
        async def load(self, panel_id: str) -> StoredPanel | None:
            found = await super().load(panel_id)
            self.fold()
            return found

    journal = Slow()
    gateway = Gateway(journal)
    resident = await gateway.add()
    journal.fold()
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert await gateway.kernel.residents.open("p") is None
    assert not is_here(gateway)


async def test_open_does_not_bring_back_any_of_several_that_were_deleted() -> None:
    """The journal knows the first of three; all are gone, and none of that is folded."""
    journal = Unfolded()
    gateway = Gateway(journal)
    resident = await gateway.add()
    journal.fold()
    gateway.kernel.making.delete(resident)
    for _ in range(2):
        gateway.kernel.making.delete(await gateway.add())
    await gateway.settle()
    assert await gateway.kernel.residents.open("p") is None
    assert await listed(gateway) == []
    await gateway.add()
    assert await listed(gateway) == ["p"]


async def test_trigger_of_a_panel_that_is_gone_is_refused() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.respond = lambda call: None
    caller = gateway.submit(resident, caller=Caller())
    gateway.kernel.making.delete(resident)
    assert isinstance(caller.last, Refused)
