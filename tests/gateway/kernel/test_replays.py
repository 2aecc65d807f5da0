"""Replays: a recorded trigger runs once more on what it saw, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from panels_gateway.access.tokens import ANONYMOUS, principal_of
from panels_gateway.dispatch.dispatcher import DispatchLimits
from panels_gateway.dispatch.fleet import Run
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.kernel.replays import MAX_REPLAYS, differences
from panels_gateway.kernel.residents import Resident
from panels_gateway.panels.definition import PanelDefinition
from panels_gateway.panels.definition_body import DefinitionLimits, parse
from panels_shared import messages as m
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import Failed, LogLine, Outcome, Reason, Suspended, Usage
from tests.gateway.builders import setting
from tests.support.gateway import WORKER, Call, Gateway, completed, follow
from tests.support.waiting import act, asking, only_suspension, reply

pytestmark = pytest.mark.anyio

ANN = principal_of("ann", expires_at=None, grants=None)


async def refused(gateway: Gateway, resident: Resident, seq: int) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await gateway.kernel.replays.replay(resident, seq, ANONYMOUS)
    return caught.value


async def test_replay_sees_what_the_trigger_saw_and_changes_nothing() -> None:
    seen: list[tuple[object, dict[str, bytes], float, int, bytes]] = []

    def respond(call: Call) -> Outcome:
        assert isinstance(call.job, m.Job)
        seen.append((call.args, dict(call.state), call.job.now_ms, call.job.seed, call.job.scope))
        return follow(call)

    gateway = Gateway(respond=respond)
    resident = await gateway.add(state={"n": 0})
    gateway.submit(resident, {"set": {"n": 1}}, principal=ANN)
    await gateway.settle()
    gateway.wall_s += 60
    await gateway.put(resident, n=2, other=True)
    _, socket = gateway.connect(resident)
    position = gateway.journal.position
    replayed = await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)
    await gateway.settle()
    assert replayed.differences == ()
    assert replayed.record.seq == 1
    assert seen[2] == seen[0]
    assert seen[2][1] == {"n": b"0"}
    assert gateway.state(resident) == {"n": 2, "other": True}
    assert socket.words == ["CONNECTED 2"]
    assert gateway.journal.position == position
    assert gateway.dispatcher.stats()["panels"] == 1


async def test_replay_names_what_was_otherwise() -> None:
    times = 0

    def respond(call: Call) -> Outcome:
        nonlocal times
        times += 1
        ended = completed(times, setting("n", times))
        return msgspec.structs.replace(ended, usage=Usage(fuel=times, execution_us=1))

    gateway = Gateway(respond=respond)
    resident = await gateway.add()
    await gateway.trigger(resident)
    replayed = await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)
    assert replayed.differences == ("fuelConsumed", "returnValue", "mutations")


def test_differences_of_other_ends() -> None:
    done, failed = completed(1), Failed(Usage(fuel=7), Reason.HANDLER_ERROR, "no")
    assert differences(done, failed) == ("outcome",)
    assert differences(failed, msgspec.structs.replace(failed, message="x")) == ("message",)
    assert differences(failed, failed) == ()
    assert differences(done, msgspec.structs.replace(done, log=(LogLine(1, "x"),))) == ("log",)
    # how long it took, and how much memory, is another thing each time
    slow = msgspec.structs.replace(done, usage=Usage(fuel=7, execution_us=9_000, memory_peak_bytes=5))
    assert differences(done, slow) == ()


def defined(**handlers: str) -> PanelDefinition:
    tools = [{"name": name, "handler": handler} for name, handler in handlers.items()]
    return parse(json.dumps({"kind": "test", "tools": tools}).encode(), DefinitionLimits(), default_id="p")


async def test_replay_runs_the_handler_that_ran_and_not_the_one_of_today() -> None:
    gateway = Gateway()
    resident = await gateway.kernel.making.create(defined(t="old"))
    await gateway.put(resident, n=1)
    before = resident.panel.tools["t"].digest
    await gateway.kernel.making.replace(resident, defined(t="new"), ANN)
    await gateway.settle()
    assert resident.panel.tools["t"].digest != before
    ran: list[bytes] = []
    tool_of = gateway.dispatcher.awaits

    def respond(call: Call) -> Outcome:
        tool = tool_of(WORKER, call.job.job)
        assert tool is not None
        ran.append(tool.digest)
        return follow(call)

    gateway.respond = respond
    assert (await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)).differences == ()
    assert ran == [before]
    await gateway.kernel.making.replace(resident, defined(other="new"), ANN)
    assert (await refused(gateway, resident, 1)).code is Code.CONFLICT


async def test_only_versions_that_triggers_made_are_replayed() -> None:
    gateway = Gateway(MemoryJournal(history_commits=1))
    resident = await gateway.add(state={})
    for number in range(1, 5):
        await gateway.put(resident, n=number)
    await gateway.kernel.making.revert(resident, 4, ANN)
    await gateway.settle()
    for seq in (0, 6, -1):
        assert (await refused(gateway, resident, seq)).details == {"path": "seq"}
    reverted = await refused(gateway, resident, 5)
    assert reverted.code is Code.INVALID_REQUEST
    assert "'revert' made version 5" in reverted.message
    assert (await refused(gateway, resident, 1)).code is Code.HISTORY_GONE


async def test_handler_that_waited_is_replayed_up_to_its_first_wait() -> None:
    gateway = Gateway(respond=act)
    resident = await gateway.add(state={})
    gateway.submit(resident, asking(set={"asked": 1}, then={"set": {"answered": 1}}))
    await gateway.settle()
    await reply(gateway, only_suspension(resident), "yes")
    assert gateway.state(resident) == {"asked": 1, "answered": 1}
    replayed = await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)
    assert isinstance(replayed.outcome, Suspended)
    assert replayed.differences == ()
    assert not resident.waiting
    later = await refused(gateway, resident, 2)
    assert later.code is Code.INVALID_REQUEST
    assert "1 waits" in later.message


async def test_replays_are_bounded_and_end_with_their_callers() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={})
    await gateway.put(resident, n=1)
    gateway.respond = lambda call: None
    waiting = [
        asyncio.create_task(gateway.kernel.replays.replay(resident, 1, ANONYMOUS)) for _ in range(MAX_REPLAYS)
    ]
    await gateway.settle()
    assert (await refused(gateway, resident, 1)).code is Code.OVERLOADED
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await gateway.settle()
    assert gateway.dispatcher.stats()["panels"] == 1
    gateway.respond = follow
    while gateway.held:
        gateway.answer_held()  # what comes too late harms nobody
    await gateway.settle()
    assert (await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)).differences == ()


async def test_replay_without_a_worker_is_answered_in_time() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_timeout_s=5.0))
    resident = await gateway.add(state={})
    await gateway.put(resident, n=1)
    gateway.dispatcher.lost(WORKER, gateway.now_s)
    replaying = asyncio.create_task(gateway.kernel.replays.replay(resident, 1, ANONYMOUS))
    await gateway.settle()
    await gateway.wait(6.0)
    with pytest.raises(RequestError) as caught:
        await replaying
    assert caught.value.code is Code.UNAVAILABLE
    assert gateway.dispatcher.unanswered == 0


async def test_worker_that_lies_about_a_replay_is_not_believed() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", state={}, capabilities=["state:write:mine"])
    await gateway.put(resident, mine=1)
    finished: list[bool] = []
    finish = gateway.kernel.finish

    def spy(run: Run, outcome: Outcome) -> bool:
        finished.append(finish(run, outcome))
        return finished[-1]

    gateway.kernel.finish = spy  # type: ignore[method-assign]
    gateway.respond = lambda call: completed(None, setting("yours", 1))
    replayed = await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)
    assert finished == [False]
    assert replayed.differences == ("outcome",)
    assert isinstance(replayed.outcome, Failed)
    assert replayed.outcome.reason is Reason.INVALID_RESULT


async def test_replay_is_charged_like_a_trigger_of_whoever_asks() -> None:
    gateway = Gateway()
    resident = await gateway.add("p", state={}, quota={"fuel": 10, "windowS": 10})
    await gateway.put(resident, n=1)
    before = gateway.kernel.counters.fuel
    await gateway.kernel.replays.replay(resident, 1, ANONYMOUS)
    assert gateway.kernel.counters.fuel == 2 * before
    assert (await refused(gateway, resident, 1)).code is Code.QUOTA_EXCEEDED
