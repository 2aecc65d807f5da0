"""How triggers come in: who may, what the job will see, what is refused, and what is known of an idempotency
key.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from panels_gateway.access.tokens import ANONYMOUS, Principal, principal_of
from panels_gateway.clients.connection import ClientLimits, Connection
from panels_gateway.dispatch.limits import DispatchLimits
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Ran
from panels_gateway.kernel import intake as intakes
from panels_gateway.kernel.intake import make_key
from panels_gateway.kernel.kernel import KernelLimits
from panels_gateway.kernel.residents import ResidentLimits
from panels_gateway.panels.answers import MAX_FOLLOWERS, AnswerLimits
from panels_gateway.panels.trigger import Failure, Refused, Succeeded
from panels_shared.errors import Code, RequestError
from panels_shared.messages import Job
from panels_shared.outcome import Failed, Reason, Usage
from tests.gateway.builders import setting
from tests.support.gateway import Caller, Gateway, Socket, completed
from tests.support.waiting import act, asking, only_suspension, replace, reply, tool

pytestmark = pytest.mark.anyio

ANN = principal_of("ann", expires_at=None, grants=None)
BOB = principal_of("bob", expires_at=None, grants=None)
NOBODY = principal_of("eve", expires_at=None, grants=())


class Unfolded(MemoryJournal):
    """Folds only when it is told to."""

    def _schedule(self) -> None:
        return

    def fold(self) -> None:
        self._fold()


async def refused(gateway: Gateway, *, tool: str = "t", principal: Principal = ANONYMOUS) -> RequestError:
    resident = await gateway.open()
    with pytest.raises(RequestError) as caught:
        gateway.submit(resident, tool=tool, principal=principal)
    return caught.value


# -- what is accepted --------------------------------------------------------------------------------


async def test_accept_refuses_what_may_not_be_triggered() -> None:
    gateway = Gateway()
    await gateway.add()
    assert (await refused(gateway, tool="none")).code is Code.TOOL_NOT_FOUND
    assert (await refused(gateway, principal=NOBODY)).code is Code.FORBIDDEN
    gateway.kernel.intake.closing = True
    assert (await refused(gateway)).code is Code.UNAVAILABLE


async def test_accept_refuses_a_panel_that_is_gone() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.kernel.making.delete(resident)
    with pytest.raises(RequestError) as caught:
        gateway.submit(resident)
    assert caught.value.code is Code.PANEL_NOT_FOUND


async def test_job_sees_the_clock_the_randomness_and_the_scope_that_were_handed_in() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.wall_s = 1_234.5678
    gateway.submit(resident, {"a": 1}, principal=ANN)
    await gateway.settle()
    (job,) = gateway.jobs
    assert isinstance(job, Job)
    assert (job.now_ms, job.seed, json.loads(job.args)) == (1_234_567.0, 2**64 - 1, {"a": 1})
    assert json.loads(job.scope) == {"sub": "ann", "panelId": "p"}


async def test_job_sees_claims_panel_request_and_client_and_so_does_history() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    who = principal_of("ann", expires_at=None, grants=None, claims={"team": ["red"], "roles": {"a": 1}})
    client, _ = gateway.connect(resident, principal=who)
    client.receive_text('{"type":"TRIGGER","tool":"t","args":{"set":{"n":1}},"requestId":"r\\"1"}')
    await gateway.settle()
    (job,) = gateway.jobs
    scope = {
        "sub": "ann",
        "team": ["red"],
        "roles": {"a": 1},
        "panelId": "p",
        "requestId": 'r"1',
        "clientId": client.client_id,
    }
    assert json.loads(job.scope) == scope
    page = await gateway.kernel.histories.since(resident, 0, limit_bytes=10_000)
    assert page is not None
    (record,) = page.commits
    assert isinstance(record, Ran)
    assert record.scope == job.scope, "a replay sees it byte for byte"


# -- a version that is expected ----------------------------------------------------------------------


def conflict(caller: Caller) -> dict[str, object]:
    answer = caller.last
    assert isinstance(answer, Refused)
    assert answer.code is Code.CONFLICT
    return dict(answer.details or {})


async def test_trigger_runs_at_the_version_that_it_expects_and_at_no_other() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    first = gateway.submit(resident, {"set": {"n": 1}}, expected_seq=0)
    second = gateway.submit(resident, {"set": {"n": 2}}, expected_seq=0)
    third = gateway.submit(resident, {"set": {"n": 3}}, expected_seq=1)
    await gateway.settle()
    assert isinstance(first.last, Succeeded)
    assert conflict(second) == {"expectedSeq": 0, "seq": 1}
    assert isinstance(third.last, Succeeded)
    assert (len(gateway.jobs), resident.panel.seq) == (2, 2), "what is refused was not run"
    assert gateway.dispatcher.unanswered == 0


async def test_trigger_that_expects_a_version_waits_for_all_before_it() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    gateway.submit(resident)
    caller = gateway.submit(resident, expected_seq=1)
    behind = gateway.submit(resident)
    await gateway.settle()
    assert (gateway.held, len(caller.answers)) == (1, 0)
    gateway.answer_held(completed(None, setting("n", 1)))
    await gateway.settle()
    assert gateway.held == 2, "what stands behind it may be sent along"
    gateway.answer_held()
    gateway.answer_held()
    await gateway.settle()
    assert isinstance(caller.last, Succeeded)
    assert isinstance(behind.last, Succeeded)


async def test_trigger_in_flight_is_refused_when_the_panel_changes_from_outside() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    await gateway.put(resident, n=1)
    gateway.respond = lambda call: None
    caller = gateway.submit(resident, {"set": {"n": 9}}, expected_seq=1)
    await gateway.settle()
    await gateway.kernel.making.revert(resident, 0, ANONYMOUS)
    await gateway.settle()
    gateway.answer_held(completed(None, setting("n", 9)))
    await gateway.settle()
    assert conflict(caller) == {"expectedSeq": 1, "seq": 2}
    assert "n" not in resident.panel.state


async def test_key_of_a_refused_expectation_is_free_and_an_answer_is_repeated_at_any_version() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    caller = gateway.submit(resident, {"set": {"n": 1}}, key="k", expected_seq=7)
    await gateway.settle()
    assert conflict(caller)["seq"] == 0
    caller = gateway.submit(resident, {"set": {"n": 1}}, key="k", expected_seq=0)
    await gateway.settle()
    assert isinstance(caller.last, Succeeded)
    again = gateway.submit(resident, {"set": {"n": 1}}, key="k", expected_seq=0)
    await gateway.settle()
    assert isinstance(again.last, Succeeded)
    assert again.last.seq == 1


async def test_handler_that_waits_expects_a_version_when_it_begins_and_not_when_it_goes_on() -> None:
    gateway = Gateway(respond=act)
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(), expected_seq=0)
    await gateway.settle()
    suspension = only_suspension(resident)
    gateway.submit(resident, {"set": {"n": 1}})
    await reply(gateway, suspension, True)
    assert isinstance(caller.last, Succeeded)


@pytest.mark.parametrize("text", ["", "k" * 129, "a\nb", "\0", "\x7f"])
def test_key_refuses_what_is_none(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_key("ann", text, "t", b"null")
    assert caught.value.code is Code.PARSE_ERROR


def test_key_tells_tools_args_and_subjects_apart() -> None:
    keys = [
        make_key("ann", "k", "t", b"1"),
        make_key("bob", "k", "t", b"1"),
        make_key("ann", "k", "u", b"1"),
        make_key("ann", "k", "t", b"2"),
    ]
    assert len(set(keys)) == 4
    assert len({key.fingerprint for key in keys}) == 3
    assert make_key("ann", "k", "t", b"1") == keys[0]


# -- full queues -------------------------------------------------------------------------------------


async def test_submit_answers_overloaded_where_a_queue_is_full() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_per_panel=2))
    gateway.respond = lambda call: None
    resident = await gateway.add()
    caller = Caller()
    for _ in range(3):
        gateway.submit(resident, caller=caller)
    (answer,) = caller.answers
    assert isinstance(answer, Refused)
    assert answer.code is Code.OVERLOADED
    assert answer.details is not None
    assert answer.details["scope"] == "panel"
    assert (gateway.kernel.counters.triggers, gateway.kernel.counters.overloaded) == (3, 1)


async def test_submit_answers_overloaded_while_the_journal_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    resident = await gateway.add()
    await gateway.settle()
    monkeypatch.setattr(gateway.kernel.intake, "backlog_bytes", gateway.journal.backlog_bytes - 1)
    answer = await gateway.trigger(resident, key="k")
    assert isinstance(answer, Refused)
    assert answer.details == {"retryAfterMs": 500, "scope": "journal"}
    gateway.journal.release(gateway.journal.position)
    await gateway.settle()
    assert isinstance(await gateway.trigger(resident, key="k"), Succeeded), "a refusal frees the key"


# -- idempotency -------------------------------------------------------------------------------------


async def test_key_that_was_answered_gets_the_same_answer_and_nothing_runs() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    first = await gateway.trigger(resident, {"set": {"n": 1}}, key="k")
    await gateway.put(resident, n=2)
    assert await gateway.trigger(resident, {"set": {"n": 1}}, key="k") == first
    assert gateway.state(resident) == {"n": 2}
    assert gateway.kernel.counters.repeated == 1


async def test_key_that_runs_is_joined_and_all_get_the_answer() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    callers = [gateway.submit(resident, key="k") for _ in range(3)]
    await gateway.settle()
    assert gateway.held == 1
    gateway.answer_held()
    await gateway.settle()
    answers = [caller.last for caller in callers]
    assert isinstance(answers[0], Succeeded)
    assert answers == [answers[0]] * 3
    assert gateway.kernel.counters.joined == 2


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(("args", "tool"), [(2, "t"), (1, "u")])
async def test_key_used_for_something_else_is_a_conflict(answered: bool, args: object, tool: str) -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.submit(resident, 1, key="k")
    if answered:
        await gateway.settle()
    caller = gateway.submit(resident, args, tool=tool, key="k")
    assert isinstance(caller.last, Refused)
    assert caller.last.code is Code.CONFLICT


async def test_key_belongs_to_its_subject() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    for principal in (ANN, BOB, ANONYMOUS):
        gateway.submit(resident, {"set": {"n": 1}}, key="k", principal=principal)
    await gateway.settle()
    assert resident.panel.seq == 3


async def test_key_of_a_trigger_that_failed_gets_the_failure_again() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: Failed(Usage(fuel=5), Reason.HANDLER_ERROR, "no", 3, 4, b'{"a":1}')
    resident = await gateway.add()
    first = await gateway.trigger(resident, key="k")
    assert isinstance(first, Failure)
    assert await gateway.trigger(resident, key="k") == first
    assert len(gateway.jobs) == 1


async def test_key_of_a_trigger_that_no_worker_could_run_is_answered_too() -> None:
    gateway = Gateway()
    resident = await gateway.add()
    gateway.respond = lambda call: None
    caller = gateway.submit(resident, key="k")
    await gateway.settle()
    (trigger,) = [run.trigger for run in gateway.dispatcher._fleet.lanes[resident.panel.key].in_flight]
    gateway.kernel.failed(trigger, Reason.WORKER_LOST, "its process died")
    assert isinstance(caller.last, Failure)
    assert gateway.submit(resident, key="k").answers == caller.answers


async def test_key_of_a_trigger_that_was_refused_is_free() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_per_panel=1))
    resident = await gateway.add()
    gateway.submit(resident, {"set": {"other": 1}})
    assert isinstance(gateway.submit(resident, {"set": {"n": 1}}, key="k").last, Refused)
    await gateway.settle()
    assert isinstance(await gateway.trigger(resident, {"set": {"n": 1}}, key="k"), Succeeded)
    assert resident.panel.seq == 2


async def test_key_is_forgotten_after_its_time() -> None:
    limits = KernelLimits(residents=ResidentLimits(answers=AnswerLimits(ttl_ms=1_000)))
    gateway = Gateway(limits=limits)
    resident = await gateway.add()
    await gateway.trigger(resident, key="k")
    gateway.wall_s += 1.0
    await gateway.trigger(resident, key="k")
    assert len(gateway.jobs) == 1
    gateway.wall_s += 0.001
    await gateway.trigger(resident, key="k")
    assert len(gateway.jobs) == 2


async def test_key_is_forgotten_when_there_are_too_many() -> None:
    limits = KernelLimits(residents=ResidentLimits(answers=AnswerLimits(keys=2)))
    gateway = Gateway(limits=limits)
    resident = await gateway.add()
    for key in ("a", "b", "c"):
        await gateway.trigger(resident, key=key)
    await gateway.trigger(resident, key="c")
    assert len(gateway.jobs) == 3
    await gateway.trigger(resident, key="a")
    assert len(gateway.jobs) == 4


async def test_key_has_a_bounded_number_of_followers() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    caller = Caller()
    for _ in range(MAX_FOLLOWERS + 1):
        gateway.submit(resident, key="k", caller=caller)
    assert caller.answers == []
    gateway.submit(resident, key="k", caller=caller)
    assert isinstance(caller.last, Refused)
    assert caller.last.code is Code.OVERLOADED
    await gateway.settle()
    gateway.answer_held()
    assert len(caller.answers) == MAX_FOLLOWERS + 2


async def test_followers_of_a_trigger_that_is_refused_are_refused_with_it() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: None
    resident = await gateway.add()
    callers = [gateway.submit(resident, key="k") for _ in range(2)]
    gateway.kernel.making.delete(resident)
    for caller in callers:
        (answer,) = caller.answers
        assert isinstance(answer, Refused)
        assert answer.code is Code.PANEL_NOT_FOUND


# -- answers that are read back from the journal -----------------------------------------------------


async def stored(journal: MemoryJournal | None = None) -> tuple[Gateway, Succeeded]:
    gateway = Gateway(journal)
    resident = await gateway.add()
    answer = await gateway.trigger(resident, {"set": {"n": 1}}, key="k")
    assert isinstance(answer, Succeeded)
    return gateway, answer


async def test_answer_is_kept_until_it_can_be_read_back() -> None:
    journal = Unfolded()
    gateway, first = await stored(journal)
    resident = await gateway.open()
    key = make_key("", "k", "t", b'{"set": {"n": 1}}')
    for folded in (False, True):
        known = resident.answers.look(key, 0)
        assert (getattr(known, "record", None) is None) == folded
        assert await gateway.trigger(resident, {"set": {"n": 1}}, key="k") == first
        journal.fold()


async def test_answer_that_is_no_longer_kept_is_a_conflict_and_nothing_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(panel: int, subject: str, key: str) -> Ran | None:
        return None

    async def broken(panel: int, subject: str, key: str) -> Ran | None:
        raise JournalError("the row is damaged")

    gateway, _ = await stored()
    resident = await gateway.open()
    reads: list[Callable[[int, str, str], object]] = [nothing, broken]
    for read in reads:
        monkeypatch.setattr(gateway.journal, "answer", read)
        answer = await gateway.trigger(resident, {"set": {"n": 1}}, key="k")
        assert isinstance(answer, Refused)
        assert answer.code is Code.CONFLICT
    assert len(gateway.jobs) == 1


async def test_answers_that_are_being_read_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intakes, "MAX_LOOKUPS", 1)
    gateway, first = await stored()
    resident = await gateway.open()
    callers = [gateway.submit(resident, {"set": {"n": 1}}, key="k") for _ in range(2)]
    await gateway.settle()
    assert callers[0].answers == [first]
    assert isinstance(callers[1].last, Refused)
    assert callers[1].last.code is Code.OVERLOADED


async def test_answer_outlives_the_panel_s_stay_in_memory() -> None:
    gateway = Gateway(limits=KernelLimits(residents=ResidentLimits(bytes=0)))
    await gateway.add()
    first = await gateway.trigger(await gateway.open(), {"set": {"n": 1}}, key="k")
    await gateway.settle()
    assert len(gateway.kernel.residents) == 0
    assert await gateway.trigger(await gateway.open(), {"set": {"n": 1}}, key="k") == first
    assert len(gateway.jobs) == 1


# -- another definition ------------------------------------------------------------------------------


def send(connection: Connection, *triggers: tuple[str, object]) -> None:
    """Triggers tools with these arguments; the requestId of each is its place."""
    for place, (name, args) in enumerate(triggers):
        message = {"type": "TRIGGER", "tool": name, "args": args, "requestId": str(place)}
        connection.receive_text(json.dumps(message))


def answered(socket: Socket) -> dict[str, str]:
    """What each trigger was answered with, in the order of the answers."""
    answers = [message for message in socket.heard if message["type"] in ("RESULT", "ERROR")]
    return {message["requestId"]: message.get("code", message["type"]) for message in answers}


async def test_trigger_that_waits_with_its_client_is_run_by_the_tools_that_the_panel_has_by_then() -> None:
    gateway = Gateway(respond=lambda call: None)
    resident = await gateway.add(tools=[tool("t"), tool("goes")])
    connection, socket = gateway.connect(resident, limits=ClientLimits(admitted=1))
    send(connection, ("t", None), ("goes", None), ("t", None))
    await gateway.settle()
    await replace(gateway, tool("t", "/* new */ $args"))
    gateway.jobs.clear()
    while gateway.held:
        gateway.answer_held()
        await gateway.settle()
    assert answered(socket) == {"0": "RESULT", "1": "TOOL_NOT_FOUND", "2": "RESULT"}
    assert {job.tool for job in gateway.jobs} == {resident.panel.tools["t"].tool}


@pytest.mark.parametrize("exclusive", [False, True])
async def test_client_that_hears_of_a_tool_that_is_gone_overtakes_nobody(exclusive: bool) -> None:
    gateway = Gateway(respond=act if exclusive else lambda call: None)
    resident = await gateway.add(tools=[tool("x", exclusive=True), tool("t"), tool("goes")])
    first = gateway.submit(resident, asking(), tool="x")
    await gateway.settle()
    connection, socket = gateway.connect(resident, limits=ClientLimits(admitted=2))
    send(connection, ("goes", None), ("t", 1), ("t", 2))
    await gateway.settle()
    await replace(gateway, tool("x", exclusive=True), tool("t"))
    if exclusive:
        await reply(gateway, only_suspension(resident), 1)
    while gateway.held:
        gateway.answer_held()
        await gateway.settle()
    assert isinstance(first.last, Succeeded)
    assert list(answered(socket)) == ["0", "1", "2"]
