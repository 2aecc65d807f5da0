"""How panels are made, replaced, reverted, forked and deleted."""

from __future__ import annotations

import asyncio
import json

import pytest

from panels_gateway.access.reach import EVERYTHING
from panels_gateway.access.tokens import ANONYMOUS, principal_of
from panels_gateway.clients.connection import ClientLimits
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Batch, Created, Defined, Deleted, Source, Unparked
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.panels.trigger import Refused, Succeeded
from panels_shared.errors import CloseCode, Code, RequestError
from panels_shared.messages import Refusal
from panels_shared.outcome import ExtensionCall, Suspended, Usage
from tests.support.gateway import Gateway, follow, make_definition

pytestmark = pytest.mark.anyio

ANN = principal_of("ann", expires_at=None, grants=None)


class Recorder(MemoryJournal):
    """Keeps what was appended."""

    def __init__(self, *, hold: bool = False, history_commits: int = 10_000) -> None:
        super().__init__(hold=hold, history_commits=history_commits)
        self.records: list[object] = []

    def append(self, batch: Batch) -> None:
        super().append(batch)
        self.records += batch.records


# -- create ------------------------------------------------------------------------------------------


async def test_create_records_the_sources_and_then_the_panel() -> None:
    journal = Recorder()
    gateway = Gateway(journal)
    resident = await gateway.add(state={"n": 1})
    *sources, created = journal.records
    assert [type(source) for source in sources] == [Source, Source]
    assert isinstance(created, Created)
    assert (created.panel, created.id, created.seq, created.state) == (1, "p", 0, {"n": b"1"})
    assert set(created.digests) == {tool.digest for tool in resident.panel.tools.values()}
    assert resident.panel.epoch.startswith(created.epoch)
    assert gateway.kernel.making.panels == 1


async def test_create_refuses_an_id_that_is_there_or_on_its_way() -> None:
    gateway = Gateway()
    gateway.compiling = False
    making = asyncio.create_task(gateway.add())
    await gateway.settle()
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            await gateway.add()
        assert caught.value.code is Code.PANEL_EXISTS
        gateway.compile_held()
        await gateway.settle()
        await making


async def test_create_refuses_an_id_that_only_the_journal_knows() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.kernel.residents.detach(resident.panel)
    gateway.kernel.residents.remove(resident)
    with pytest.raises(RequestError) as caught:
        await gateway.add()
    assert caught.value.code is Code.PANEL_EXISTS


async def test_create_counts_those_that_are_being_made_against_the_maximum() -> None:
    gateway = Gateway(limits=KernelLimits(panels=2))
    await gateway.add("a")
    gateway.compiling = False
    making = asyncio.create_task(gateway.add("b", "other"))
    await gateway.settle()
    with pytest.raises(RequestError) as caught:
        await gateway.add("c")
    assert caught.value.code is Code.TOO_MANY_PANELS
    gateway.compile_held()
    gateway.kernel.making.delete(await making)
    gateway.compiling = True
    await gateway.add("c")


async def test_create_that_fails_leaves_nothing_behind() -> None:
    gateway = Gateway()
    made = make_definition("p", "t")
    digest = made.tools[0].handler.digest
    gateway.refusals[digest] = Refusal("syntax", "no", 1, 1)
    with pytest.raises(RequestError):
        await gateway.kernel.making.create(made)
    assert (gateway.kernel.making.panels, gateway.journal.position) == (0, 0)
    assert await gateway.kernel.residents.open("p") is None
    await gateway.add("p", "other")


# -- replace -----------------------------------------------------------------------------------------


async def test_replace_keeps_the_state_and_the_watchers() -> None:
    journal = Recorder()
    gateway = Gateway(journal)
    resident = await gateway.add(state={"n": 1})
    _, socket = gateway.connect(resident)
    journal.records.clear()
    await gateway.kernel.making.replace(resident, make_definition("p", "v", title="New"), ANN)
    await gateway.settle()
    assert [type(record) for record in journal.records] == [Source, Defined]
    assert (resident.panel.definition.title, list(resident.panel.tools)) == ("New", ["v"])
    assert (gateway.state(resident), resident.panel.seq) == ({"n": 1}, 0)
    assert isinstance(await gateway.trigger(resident, {"set": {"n": 2}}, tool="v"), Succeeded)
    assert socket.words == ["CONNECTED 0", "PATCH 1"]


async def test_replace_with_a_state_is_one_version() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={"n": 1, "gone": 1})
    _, socket = gateway.connect(resident)
    await gateway.kernel.making.replace(resident, make_definition("p", "t", state={"n": 5}), ANN)
    await gateway.settle()
    assert socket.words == ["CONNECTED 0", "PATCH 1"]
    assert (gateway.state(resident), resident.panel.seq) == ({"n": 5}, 1)
    assert await gateway.kernel.histories.state_at(resident, 0) == {"n": b"1", "gone": b"1"}


async def test_replace_has_what_waits_run_by_the_new_tools() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    kept = gateway.submit(resident, {"set": {"n": 1}}, tool="t", key="k")
    lost = gateway.submit(resident, tool="u")
    await gateway.settle()
    gateway.respond = follow
    old = gateway.jobs[0].tool
    await gateway.kernel.making.replace(resident, make_definition("p", "t"), ANN)
    await gateway.settle()
    assert isinstance(kept.last, Succeeded)
    assert gateway.jobs[-1].tool != old
    assert isinstance(lost.last, Refused)
    assert lost.last.code is Code.TOOL_NOT_FOUND
    assert len(kept.answers) == len(lost.answers) == 1


async def test_replace_of_a_panel_that_is_deleted_meanwhile_is_not_found() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.compiling = False
    replacing = asyncio.create_task(
        gateway.kernel.making.replace(resident, make_definition("p", "new"), ANONYMOUS)
    )
    await gateway.settle()
    gateway.kernel.making.delete(resident)
    gateway.compile_held()
    with pytest.raises(RequestError) as caught:
        await replacing
    assert caught.value.code is Code.PANEL_NOT_FOUND


# -- revert and fork ---------------------------------------------------------------------------------


async def test_revert_makes_an_old_state_the_newest_version() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={"n": 0})
    await gateway.put(resident, n=1, other=1)
    await gateway.put(resident, n=2)
    assert await gateway.kernel.making.revert(resident, 0, ANN) == 3
    assert gateway.state(resident) == {"n": 0}
    assert await gateway.kernel.making.revert(resident, 2, ANN) == 4
    assert gateway.state(resident) == {"n": 2, "other": 1}
    assert await gateway.kernel.histories.state_at(resident, 3) == {"n": b"0"}


async def test_revert_refuses_a_version_that_is_not_there() -> None:
    gateway = Gateway(MemoryJournal(history_commits=1))
    resident = await gateway.add()
    for number in range(5):
        await gateway.put(resident, n=number)
    for seq, code in ((6, Code.INVALID_REQUEST), (-1, Code.INVALID_REQUEST), (0, Code.HISTORY_GONE)):
        with pytest.raises(RequestError) as caught:
            await gateway.kernel.making.revert(resident, seq, ANN)
        assert caught.value.code is code
    assert resident.panel.seq == 5


async def test_fork_has_the_definition_and_a_state_and_a_history_of_its_own() -> None:
    gateway = Gateway()
    source = await gateway.add(state={"n": 0}, title="T", metadata={"a": 1})
    await gateway.put(source, n=1)
    for panel_id, seq, state in (("now", None, {"n": 1}), ("then", 0, {"n": 0})):
        made = await gateway.kernel.making.fork(source, panel_id, seq)
        assert (made.panel.id, made.panel.seq, gateway.state(made)) == (panel_id, 0, state)
        assert made.panel.epoch != source.panel.epoch
        assert made.panel.definition.title == "T"
        await gateway.put(made, n=9)
    assert gateway.state(source) == {"n": 1}
    for panel_id, seq, code in (("now", None, Code.PANEL_EXISTS), ("new", 7, Code.INVALID_REQUEST)):
        with pytest.raises(RequestError) as caught:
            await gateway.kernel.making.fork(source, panel_id, seq)
        assert caught.value.code is code
    await gateway.kernel.making.fork(source, "new", 1)


# -- delete ------------------------------------------------------------------------------------------


async def test_delete_answers_what_waits_and_closes_the_clients_behind_everything() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    other = await gateway.add("other")
    connection, socket = gateway.connect(resident)
    _, bystander = gateway.connect(other)
    connection.receive_text('{"type":"TRIGGER","tool":"t","requestId":"r"}')
    await gateway.settle()
    gateway.kernel.making.delete(resident)
    assert not socket.is_closed
    await gateway.settle()
    assert [message.get("code") for message in socket.heard] == [None, "PANEL_NOT_FOUND"]
    assert socket.closed == (CloseCode.PANEL_DELETED, "the panel was deleted")
    assert bystander.closed is None
    assert gateway.kernel.making.panels == 1
    with pytest.raises(RequestError) as caught:
        gateway.kernel.making.delete(resident)
    assert caught.value.code is Code.PANEL_NOT_FOUND


async def test_delete_refuses_what_a_client_had_waiting_behind_what_was_admitted() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    connection, socket = gateway.connect(resident, limits=ClientLimits(in_flight=1_000, admitted=2))
    for number in range(1_000):
        connection.receive_text(json.dumps({"type": "TRIGGER", "tool": "t", "requestId": f"{number}"}))
    await gateway.settle()
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert [message.get("code") for message in socket.heard] == [None] + 1_000 * ["PANEL_NOT_FOUND"]
    assert (connection.in_flight, connection.admitted) == (0, 0)
    assert socket.is_closed
    assert gateway.kernel.dispatcher.unanswered == 0


async def test_delete_ends_handlers_that_wait_before_it_is_recorded() -> None:
    journal = Recorder()
    gateway = Gateway(journal)
    ask = ExtensionCall(1, "human", "ask", b'["?"]')
    gateway.respond = lambda call: Suspended(Usage(1), (ask,), b"image")
    resident = await gateway.add()
    caller = gateway.submit(resident)
    await gateway.settle()
    assert len(resident.waiting) == 1
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert isinstance(caller.last, Refused)
    assert caller.last.code is Code.PANEL_NOT_FOUND
    assert [type(record) for record in journal.records[-2:]] == [Unparked, Deleted]
    assert gateway.kernel.suspensions.count == 0


async def test_delete_closes_nobody_before_it_is_durable() -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    resident = await gateway.add()
    _, socket = gateway.connect(resident)
    await gateway.settle()
    gateway.journal.release(gateway.journal.position)
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert (socket.words, socket.is_closed) == (["CONNECTED 0"], False)
    gateway.journal.release(gateway.journal.position)
    assert socket.is_closed


async def test_delete_and_create_again_makes_another_panel_whatever_is_folded() -> None:
    journal = Recorder(hold=True)
    gateway = Gateway(journal)
    first = await gateway.add(state={"n": 1})
    await gateway.put(first, n=2)
    gateway.kernel.making.delete(first)
    assert await gateway.kernel.residents.open("p") is None
    second = await gateway.add(state={"m": 1})
    assert (second.panel.number, second.panel.seq, gateway.state(second)) == (2, 0, {"m": 1})
    assert second.panel.epoch != first.panel.epoch
    while journal.durable < journal.position:
        journal.release(journal.durable + 1)
        await gateway.settle()
        assert await gateway.open() is second
        assert await gateway.kernel.listing.page("", 9, EVERYTHING) != ([], None)
    gateway.kernel.residents.detach(second.panel)
    gateway.kernel.residents.remove(second)
    again = await gateway.open()
    assert (again.panel.number, gateway.state(again)) == (2, {"m": 1})
    assert [type(record) for record in journal.records if isinstance(record, Deleted)] == [Deleted]
    assert json.loads(again.panel.definition.metadata) == {}
