"""How outcomes become commits: versions without gaps, one record each, heard of by everybody, and never half
of one.
"""

from __future__ import annotations

import json
from dataclasses import astuple

import pytest

from panels_gateway.journal.journal import History
from panels_gateway.journal.records import Changed, Ran
from panels_gateway.kernel.claims import InvalidOutcomeError, check
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import ResidentLimits
from panels_gateway.observe.stages import Stages
from panels_gateway.panels.panel import StateLimits
from panels_gateway.panels.trigger import Failure, Succeeded
from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.limits import Limits
from panels_shared.messages import Job, Tool, ToolKey
from panels_shared.outcome import Completed, ExtensionCall, Failed, LogLine, Outcome, Reason, Suspended, Usage
from tests.support.gateway import Call, Caller, Gateway, completed, follow

pytestmark = pytest.mark.anyio

TOOL = Tool(ToolKey(1), b"d" * 32, "javascript", "", "t", astuple(Limits()), (*DEFAULT_CAPABILITIES, "ext:*"))

INVALID: list[Completed | Suspended] = [
    Completed(Usage(), b"{"),
    Completed(Usage(), b"\xff"),
    Completed(Usage(), b'"\xff"'),
    Completed(Usage(), mutations=b"{}"),
    Completed(Usage(), mutations=b'[{"op":"set"}]'),
    Completed(Usage(), mutations=b'[{"op":"set","key":"\xff","value":1}]'),
    Completed(Usage(), mutations=b'[{"op":"rename","key":"k"}]'),
    Completed(Usage(), events=(b"[]",)),
    Completed(Usage(), events=(b'{"name":"e","payload":"\xff"}',)),
    Completed(Usage(), view_commands=b"nonsense"),
    Completed(Usage(), view_commands=b'["\xff"]'),
    Completed(Usage(), mutations=b"[" * 100_000),
    Suspended(Usage(), (ExtensionCall(1, "panels", "trigger", b'["\xff","u"]'),), b"image"),
    Suspended(Usage(), (ExtensionCall(1, "panels", "trigger", b"[" * 500 + b"]" * 500),), b"image"),
    Suspended(Usage(), (ExtensionCall(1, "http", "get", b"nonsense"),), b"image"),
]


async def records(gateway: Gateway, panel: int = 1) -> list[Ran | Changed]:
    found = await gateway.journal.history(panel, since=0, limit_bytes=1 << 30)
    assert isinstance(found, History)
    return list(found.commits)


async def test_every_commit_with_mutations_or_events_takes_the_next_version() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    _, socket = gateway.connect(resident)
    versions = []
    for args in ({"set": {"n": 1}}, {"emit": {"e": 1}}, {}, {"set": {"n": 2}, "emit": {"e": 2, "f": 3}}):
        answer = await gateway.trigger(resident, args)
        assert isinstance(answer, Succeeded)
        versions.append(answer.seq)
    assert versions == [1, 2, 2, 3]
    assert socket.words == ["CONNECTED 0", "PATCH 1", "EVENT 2", "PATCH 3", "EVENT 3", "EVENT 3"]
    assert [record.seq for record in await records(gateway)] == [1, 2, 3]


async def test_caller_hears_patch_events_and_result_in_this_order() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    connection, socket = gateway.connect(resident)
    args = '{"set":{"n":1},"emit":{"e":1}}'
    connection.receive_text('{"type":"TRIGGER","tool":"t","requestId":"r","args":' + args + "}")
    await gateway.settle()
    assert socket.words == ["CONNECTED 0", "PATCH 1", "EVENT 1", "RESULT 1"]
    assert socket.heard[-1]["requestId"] == "r"


async def test_record_holds_what_runs_the_trigger_again() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.now_s += 0.5
    caller = gateway.submit(resident, {"set": {"n": 1}}, key="k")
    gateway.now_s += 0.25
    await gateway.settle()
    (record,) = await records(gateway)
    (job,) = gateway.jobs
    assert isinstance(job, Job)
    tool = resident.panel.tools["t"]
    assert isinstance(record, Ran)
    assert (record.panel, record.seq, record.tool, record.digest) == (1, 1, "t", tool.digest)
    assert (record.args, record.scope, record.now_ms, record.seed) == (
        job.args,
        job.scope,
        job.now_ms,
        job.seed,
    )
    assert record.at_ms == int(gateway.wall_s * 1000)
    assert isinstance(caller.last, Succeeded)
    assert record.outcome == caller.last.outcome
    assert (record.queue_us, record.total_us) == (250_000, 250_000)


async def test_trigger_without_effects_is_recorded_only_for_its_key() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    position = gateway.journal.position
    await gateway.trigger(resident)
    assert gateway.journal.position == position
    await gateway.trigger(resident, key="k")
    assert gateway.journal.position == position + 1
    assert resident.panel.seq == 0
    assert await records(gateway) == []


async def test_failure_changes_nothing_and_is_recorded_only_for_its_key() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: Failed(Usage(), Reason.TIMEOUT, "no")
    resident = await gateway.add()
    position = gateway.journal.position
    assert isinstance(await gateway.trigger(resident), Failure)
    assert gateway.journal.position == position
    await gateway.trigger(resident, key="k")
    assert gateway.journal.position == position + 1
    assert (resident.panel.seq, gateway.kernel.counters.failed[Reason.TIMEOUT]) == (0, 2)


@pytest.mark.parametrize("outcome", INVALID, ids=range(len(INVALID)))
async def test_invalid_outcome_is_refused_whole(outcome: Completed | Suspended) -> None:
    with pytest.raises(InvalidOutcomeError):
        check(outcome, TOOL)
    gateway = Gateway()
    gateway.respond = lambda call: outcome
    resident = await gateway.add()
    _, socket = gateway.connect(resident)
    answer = await gateway.trigger(resident)
    assert isinstance(answer, Failure)
    assert answer.outcome.reason is Reason.INVALID_RESULT
    assert socket.words == ["CONNECTED 0"]
    assert gateway.kernel.counters.refused_commits == 1


async def test_commit_above_the_state_s_bound_is_refused_and_what_ran_on_it_runs_again() -> None:
    limits = KernelLimits(residents=ResidentLimits(state=StateLimits(bytes=20)))
    gateway = Gateway(limits=limits)
    resident = await gateway.add()
    caller = Caller()
    gateway.submit(resident, {"set": {"n": "x" * 30}}, caller=caller)
    gateway.submit(resident, {"set": {"n": 1}}, caller=caller)
    await gateway.settle()
    refused, kept = caller.answers
    assert isinstance(refused, Failure)
    assert refused.outcome.reason is Reason.LIMIT_EXCEEDED
    assert isinstance(kept, Succeeded)
    assert (kept.seq, gateway.state(resident)) == (1, {"n": 1})
    assert len(gateway.jobs) == 3


async def test_commits_of_one_turn_are_one_batch() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    position = gateway.journal.position
    for number in range(5):
        gateway.submit(resident, {"set": {"n": number}})
    await gateway.settle()
    assert (gateway.journal.position - position, resident.panel.seq) == (1, 5)


async def test_handler_s_log_is_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gateway = Gateway()
    gateway.respond = lambda call: Completed(Usage(), log=(LogLine(1, "hello from the handler"),))
    await gateway.trigger(await gateway.add())
    assert "hello from the handler" in caplog.text


async def test_stages_are_measured_for_the_commits_that_are_sampled() -> None:
    gateway = Gateway()
    gateway.kernel.stages.finishes = gateway.kernel.stages.again = 1
    await gateway.put(await gateway.add(), n=1)
    histograms = gateway.kernel.stages.histograms
    assert sum(histograms["commit"].counts) == 1
    assert isinstance(gateway.kernel.stages, Stages)


async def test_change_from_outside_is_one_commit_and_what_is_in_flight_runs_on_it() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={"n": 0, "gone": 1})
    _, socket = gateway.connect(resident)

    def count(call: Call) -> Outcome:
        return follow(call._replace(args={"set": {"n": json.loads(call.state["n"]) + 1}}))

    gateway.respond = lambda call: None
    gateway.submit(resident)
    await gateway.settle()
    gateway.respond = count
    seq = gateway.kernel.commits.change(resident, {"n": b"10"}, cause="test", subject="ann")
    gateway.answer_held(completed("too late"))
    await gateway.settle()
    assert (seq, gateway.state(resident)) == (1, {"n": 11})
    assert socket.words == ["CONNECTED 0", "PATCH 1", "PATCH 2"]
    assert {m["key"]: m["op"] for m in socket.heard[1]["mutations"]} == {"n": "set", "gone": "delete"}
    changed, _ = await records(gateway)
    assert isinstance(changed, Changed)
    assert (changed.cause, changed.subject, changed.seq) == ("test", "ann", 1)
