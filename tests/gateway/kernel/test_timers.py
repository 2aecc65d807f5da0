"""Tools that run by themselves: once for each due time, behind what they listen to, and never for ever."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from panels_gateway.access.tokens import ANONYMOUS
from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.journal.records import Fired, Ran
from panels_gateway.kernel.timers import MAX_DEPTH, RETRY_S
from panels_gateway.panels.trigger import Succeeded
from panels_shared.messages import Job
from panels_shared.outcome import Failed, Outcome, Reason, Usage
from tests.support.gateway import Call, Gateway, completed, make_definition
from tests.support.waiting import Ledger, act, advance, asking, only_suspension, reply, restart, time_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway(Ledger(), act)
    with time_of(made):
        yield made


def tool(name: str, **trigger: object) -> dict[str, object]:
    made: dict[str, object] = {"name": name, "handler": f"/* {name} */ $args"}
    return {**made, "trigger": trigger} if trigger else made


def every(ms: int = 1_000, **fields: object) -> dict[str, object]:
    return tool("t", type="interval", ms=ms, **fields)


def dues(gateway: Gateway) -> list[int]:
    """The due times that were run, as milliseconds after the test began."""
    args = [json.loads(job.args) for job in gateway.jobs if isinstance(job, Job)]
    return [given["dueMs"] - 1_000_000_000 for given in args if given and given.get("type") == "timer"]


def counting(call: Call) -> Outcome:
    """A worker whose jobs all have an effect."""
    return completed(None, events={"ran": call.args})


async def replace_tools(gateway: Gateway, *tools: dict[str, object]) -> None:
    """Gives the panel these tools."""
    resident = await gateway.open()
    definition = make_definition("p", tools=list(tools))
    await gateway.kernel.making.replace(resident, definition, ANONYMOUS)
    await gateway.settle()


def watch(gateway: Gateway, seen: list[object]) -> None:
    """Has ``seen`` get the args of every tool but ``t``."""

    def respond(call: Call) -> Outcome:
        if call.tool != "t":
            seen.append(call.args)
        return act(call)

    gateway.respond = respond


# -- times -------------------------------------------------------------------------------------------


async def test_interval_runs_at_each_multiple_of_its_length(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[every()])
    assert resident.next_runs == {"t": 1_000_001_000}
    for _ in range(6):
        await advance(gateway, 0.5)
    assert dues(gateway) == [1_000, 2_000, 3_000]
    assert resident.fired == {"t": 1_000_003_000}
    assert resident.firing == {"t": 0}
    assert gateway.kernel.counters.self_triggers == 3


async def test_due_time_is_in_the_batch_of_what_it_did(gateway: Gateway) -> None:
    gateway.respond = counting
    await gateway.add(tools=[every()])
    await advance(gateway, 1)
    assert isinstance(gateway.journal, Ledger)
    assert [type(record) for record in gateway.journal.batches[-1].records] == [Ran, Fired]


@pytest.mark.parametrize(
    ("misfire", "expected"), [("skip", [6_000]), ("once", [5_000, 6_000]), ("all", [2_000, 3_000, 4_000, 5_000, 6_000])]
)  # fmt: skip
async def test_due_times_that_nobody_was_there_for(
    gateway: Gateway, misfire: str, expected: list[int]
) -> None:
    await gateway.add(tools=[every(misfire=misfire)])
    await advance(gateway, 1)
    gateway.wall_s += 4.5
    following = await restart(gateway)
    with time_of(following):
        await advance(following, 0.5)
        assert dues(following) == expected
        again = await restart(following)
        assert dues(again) == []


async def test_all_that_was_missed_is_run_however_short_the_queue_is() -> None:
    gateway = Gateway(Ledger(), act)
    with time_of(gateway):
        await gateway.add(tools=[every(misfire="all"), tool("u")])
        await advance(gateway, 1)
        gateway.wall_s += 20.5
        following = await restart(gateway, dispatch=DispatchLimits(queue_per_panel=2, window=1))
    with time_of(following):
        await advance(following, 0)
        assert dues(following) == list(range(2_000, 22_000, 1_000))
        resident = await following.open()
        assert resident.fired == {"t": 1_000_021_000}


async def test_run_that_meets_a_full_queue_is_tried_again() -> None:
    gateway = Gateway(Ledger(), act, dispatch=DispatchLimits(queue_per_panel=2, window=1))
    with time_of(gateway):
        resident = await gateway.add(tools=[every(misfire="all"), tool("u")])
        gateway.respond = lambda call: None
        others = [gateway.submit(resident, {}, tool="u") for _ in range(3)]
        await advance(gateway, 3.1)
        assert (dues(gateway), resident.firing) == ([], {"t": 0})
        gateway.respond = act
        while gateway.held:
            gateway.answer_held()
            await gateway.settle()
        assert len(others) == 3
        await advance(gateway, RETRY_S)
        assert dues(gateway) == [1_000, 2_000, 3_000]


async def test_all_are_run_also_those_that_came_while_the_tool_ran(gateway: Gateway) -> None:
    gateway.respond = lambda call: None
    resident = await gateway.add(tools=[every(misfire="all")])
    for _ in range(3):
        await advance(gateway, 1)
    assert dues(gateway) == [1_000]
    gateway.respond = act
    gateway.answer_held()
    await gateway.settle()
    assert dues(gateway) == [1_000, 2_000, 3_000]
    assert resident.firing == {"t": 0}


async def test_tool_that_waits_across_a_restart_is_still_running(gateway: Gateway) -> None:
    def respond(call: Call) -> Outcome:
        return act(call if call.answers else call._replace(args=asking()))

    gateway.respond = respond
    await gateway.add(tools=[every()])
    await advance(gateway, 1)
    assert dues(gateway) == [1_000]
    following = await restart(gateway)
    with time_of(following):
        resident = await following.open()
        assert resident.firing == {"t": 1}
        await advance(following, 2)
        assert dues(following) == []
        await reply(following, only_suspension(resident), 1)
        assert resident.firing == {"t": 0}
        await advance(following, 1)
        assert dues(following) == [4_000]


async def test_handler_that_a_client_triggered_is_no_run_of_the_timer(gateway: Gateway) -> None:
    gateway.respond = lambda call: act(call if call.answers else call._replace(args=asking()))
    resident = await gateway.add(tools=[every()])
    gateway.submit(resident, {"type": "timer", "dueMs": 5})
    await gateway.settle()
    following = await restart(gateway)
    assert (await following.open()).firing == {}


async def test_due_times_of_a_tool_that_was_removed_are_forgotten(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[every(), tool("u", type="interval", ms=700)])
    await advance(gateway, 1)
    await replace_tools(gateway, tool("t"), tool("u", type="interval", ms=700))
    assert resident.fired == {"u": 1_000_000_700}
    found = await gateway.journal.load("p")
    assert found is not None
    assert found.fired == {"u": 1_000_000_700}
    await replace_tools(gateway, tool("t"))
    assert isinstance(gateway.journal, Ledger)
    assert await (await gateway.journal.again()).active_panels() == []


async def test_run_that_was_not_recorded_is_run_again_after_a_restart(gateway: Gateway) -> None:
    gateway.respond = lambda call: None
    await gateway.add(tools=[every(misfire="all")])
    await advance(gateway, 1)
    gateway.respond = act
    following = await restart(gateway)
    assert dues(following) == [1_000]


async def test_interval_that_is_slower_than_its_run_skips(gateway: Gateway) -> None:
    gateway.respond = lambda call: None
    resident = await gateway.add(tools=[every()])
    for _ in range(4):
        await advance(gateway, 1)
    assert dues(gateway) == [1_000]
    gateway.respond = act
    gateway.answer_held()
    await gateway.settle()
    await advance(gateway, 1)
    assert dues(gateway) == [1_000, 5_000]
    assert resident.firing == {"t": 0}


async def test_due_time_that_runs_is_not_run_again_when_the_panel_is_replaced(gateway: Gateway) -> None:
    gateway.respond = lambda call: None
    resident = await gateway.add(tools=[every(misfire="all")])
    await advance(gateway, 1)
    await gateway.kernel.making.replace(
        resident, make_definition("p", tools=[every(misfire="all"), tool("u")]), ANONYMOUS
    )
    gateway.respond = counting
    await gateway.settle()
    assert isinstance(gateway.journal, Ledger)
    ran = [record for record in gateway.journal.records if isinstance(record, Ran)]
    assert len(ran) == 1


async def test_tool_that_comes_again_begins_anew(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[every(misfire="all")])
    making = gateway.kernel.making
    await making.replace(resident, make_definition("p", tools=[tool("u")]), ANONYMOUS)
    assert resident.next_runs == {}
    await advance(gateway, 5.5)
    await making.replace(resident, make_definition("p", tools=[every(misfire="all")]), ANONYMOUS)
    await advance(gateway, 0.5)
    assert dues(gateway) == [6_000]


async def test_clock_that_is_set_back_or_forward_runs_nothing_twice(gateway: Gateway) -> None:
    await gateway.add(tools=[every()])
    await advance(gateway, 1)
    gateway.wall_s -= 10
    await advance(gateway, 1)
    assert dues(gateway) == [1_000]
    for _ in range(10):
        await advance(gateway, 1)
    assert dues(gateway) == [1_000, 2_000]
    gateway.wall_s += 3_600
    await advance(gateway, 1)
    assert len(dues(gateway)) == 3
    await advance(gateway, 1)
    assert len(dues(gateway)) == len(set(dues(gateway))) == 4


async def test_restart_with_the_clock_set_back_runs_nothing_twice(gateway: Gateway) -> None:
    await gateway.add(tools=[every(misfire="all")])
    await advance(gateway, 1)
    await advance(gateway, 1)
    gateway.wall_s -= 1.5
    following = await restart(gateway)
    with time_of(following):
        for _ in range(5):
            await advance(following, 0.5)
    assert dues(following) == [3_000]


async def test_long_interval_looks_at_the_clock_in_between(gateway: Gateway) -> None:
    await gateway.add(tools=[every(600_000)])
    await advance(gateway, 60)
    assert dues(gateway) == []
    gateway.wall_s += 540
    await advance(gateway, 60)
    assert dues(gateway) == [600_000]


async def test_cron_runs_at_its_minute(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[tool("t", type="cron", expression="*/5 * * * *")])
    due_ms = resident.next_runs["t"]
    gateway.wall_s = due_ms / 1_000 - 1
    await advance(gateway, 60)
    assert [due + 1_000_000_000 for due in dues(gateway)] == [due_ms]


async def test_timer_that_waits_is_recorded_when_it_begins_to_wait(gateway: Gateway) -> None:
    gateway.respond = lambda call: act(call._replace(args=asking()) if not call.answers else call)
    resident = await gateway.add(tools=[every(misfire="all")])
    await advance(gateway, 1)
    assert resident.fired == {"t": 1_000_001_000}
    following = await restart(gateway)
    with time_of(following):
        resident = await following.open()
        assert dues(following) == []
        await reply(following, only_suspension(resident), 1)
        assert resident.waiting == {}


async def test_timer_keeps_its_panel_in_memory_and_ends_with_it(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[every()])
    assert resident.in_use
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    await advance(gateway, 2)
    assert gateway.jobs == []


async def test_nothing_runs_by_itself_while_the_gateway_closes(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[every(), tool("m", type="mount")])
    gateway.kernel.intake.closing = True
    await advance(gateway, 2)
    gateway.connect(resident)
    await gateway.settle()
    assert gateway.jobs == []
    assert resident.firing == {"t": 0}


async def test_failure_of_a_tool_that_ran_by_itself_is_logged(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.respond = lambda call: Failed(Usage(), Reason.TRAP, "unreachable")
    resident = await gateway.add(tools=[every()])
    await advance(gateway, 1)
    assert "panel 'p': tool 't', which ran by itself: TRAP: unreachable" in caplog.text
    assert resident.fired == {"t": 1_000_001_000}
    gateway.respond = lambda call: None
    await advance(gateway, 1)
    gateway.kernel.making.delete(resident)
    await gateway.settle()
    assert "the panel 'p' was deleted" in caplog.text


# -- events, keys, clients ---------------------------------------------------------------------------


async def test_event_runs_the_tools_whose_pattern_matches(gateway: Gateway) -> None:
    seen: list[object] = []
    watch(gateway, seen)
    resident = await gateway.add(
        tools=[tool("t"), tool("all", type="event", pattern="done*"), tool("one", type="event", pattern="x")]
    )
    answer = await gateway.trigger(resident, {"emit": {"done.a": 1, "other": 2}})
    assert isinstance(answer, Succeeded)
    event = {"name": "done.a", "payload": 1, "timestamp": 1.0}
    assert seen == [{"type": "event", "event": event, "seq": 1}]


async def test_state_change_runs_the_tools_whose_pattern_matches(gateway: Gateway) -> None:
    seen: list[object] = []
    watch(gateway, seen)
    resident = await gateway.add(tools=[tool("t"), tool("u", type="state_change", path="todo*")])
    await gateway.trigger(resident, {"set": {"todo1": 1, "todo2": 2, "n": 3}})
    await gateway.trigger(resident, {"set": {"n": 4}})
    assert seen == [{"type": "state_change", "keys": ["todo1", "todo2"], "seq": 1}]
    await gateway.kernel.making.revert(resident, 0, ANONYMOUS)
    await gateway.settle()
    assert len(seen) == 2


async def test_new_state_of_a_replacement_is_heard_by_the_new_tools(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[tool("old", type="state_change", path="*")])
    new = make_definition("p", tools=[tool("new", type="state_change", path="*")], state={"n": 1})
    await gateway.kernel.making.replace(resident, new, ANONYMOUS)
    await gateway.settle()
    assert len(gateway.jobs) == 1
    assert gateway.kernel.counters.self_triggers == 1


async def test_step_of_a_handler_that_waits_is_heard_at_once(gateway: Gateway) -> None:
    resident = await gateway.add(tools=[tool("t"), tool("u", type="state_change", path="n")])
    gateway.submit(resident, asking(set={"n": 1}, then={"set": {"n": 2}}))
    await gateway.settle()
    assert gateway.kernel.counters.self_triggers == 1
    await reply(gateway, only_suspension(resident), 1)
    assert gateway.kernel.counters.self_triggers == 2


async def test_chain_is_cut_at_its_depth(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.respond = counting
    resident = await gateway.add(tools=[tool("t"), tool("u", type="event", pattern="ran")])
    await gateway.trigger(resident, {})
    # the first is not caused by any, and then one for each depth up to the bound
    assert len(gateway.jobs) == MAX_DEPTH
    assert gateway.kernel.counters.chains_cut == 1
    assert f"triggers cause one another {MAX_DEPTH} deep" in caplog.text


async def test_mount_and_unmount_run_for_the_first_and_the_last_client(gateway: Gateway) -> None:
    seen: list[object] = []
    watch(gateway, seen)
    resident = await gateway.add(tools=[tool("in", type="mount"), tool("out", type="unmount")])
    first, _ = gateway.connect(resident)
    second, _ = gateway.connect(resident)
    await gateway.settle()
    assert seen == [{"type": "mount"}]
    first.lost()
    await gateway.settle()
    assert seen == [{"type": "mount"}]
    second.lost()
    await gateway.settle()
    assert seen == [{"type": "mount"}, {"type": "unmount"}]


async def test_panel_without_such_tools_listens_to_nothing(gateway: Gateway) -> None:
    resident = await gateway.add()
    connection, _ = gateway.connect(resident)
    connection.lost()
    await gateway.settle()
    assert (resident.listeners, gateway.jobs) == (None, [])
