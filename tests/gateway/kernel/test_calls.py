"""Who makes the calls of handlers: time, other panels, people, extensions; each answers once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from panels_gateway.extensions.client import ExtensionClient
from panels_gateway.extensions.errors import CallError, ErrorCode
from panels_gateway.extensions.messages import (
    MAX_LEDGER_ENTRIES,
    Call,
    CallId,
    LedgerEntry,
    Returned,
    Verdict,
)
from panels_gateway.journal.journal import JournalError
from panels_gateway.journal.records import Exchange, Ran
from panels_gateway.kernel import calls as module
from panels_gateway.kernel.calls import MAX_DEPTH
from panels_gateway.kernel.suspension import MAX_EXCHANGES
from panels_gateway.panels.trigger import Answer, Succeeded
from panels_shared.errors import Code, RequestError
from panels_shared.outcome import Completed, Reason, Usage
from tests.support.gateway import Caller, Gateway
from tests.support.waiting import (
    APPROVE,
    ASK,
    Ledger,
    act,
    advance,
    asking,
    only_suspension,
    reply,
    restart,
    sleeping,
    time_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway(Ledger(), act)
    with time_of(made):
        yield made


def got(answer: Answer) -> list[list[Any]]:
    assert isinstance(answer, Succeeded), answer
    found: list[list[Any]] = json.loads(answer.outcome.return_value)
    return found


def error(answer: Answer) -> str:
    """The code of the error that the handler's one call ended with."""
    ((_, ok, value),) = got(answer)
    assert not ok
    assert value["message"]
    code: str = value["code"]
    return code


def trigger_of(panel: str, args: object = None, tool: str = "t") -> tuple[str, str, list[object]]:
    return "panels", "trigger", [panel, tool, args]


# -- time --------------------------------------------------------------------------------------------


async def test_sleep_answers_when_its_time_has_come(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, sleeping(1_500))
    await gateway.settle()
    await advance(gateway, 1.4)
    assert caller.answers == []
    await advance(gateway, 0.2)
    assert got(caller.last) == [[1, True, None]]


@pytest.mark.parametrize(
    "call",
    [
        ("time", "sleep", []),
        ("time", "sleep", [1, 2]),
        ("time", "sleep", ["1"]),
        ("time", "sleep", [-1]),
        ("time", "sleep", [1e12]),
        ("time", "now", [1]),
    ],
)
async def test_sleep_that_makes_no_sense_is_an_error(
    gateway: Gateway, call: tuple[str, str, list[Any]]
) -> None:
    assert error(await gateway.trigger(await gateway.add(), asking(call))) == "extension_arguments"


async def test_sleep_of_a_handler_that_was_cancelled_never_rings(gateway: Gateway) -> None:
    resident = await gateway.add()
    caller = gateway.submit(resident, sleeping(1_000))
    await gateway.settle()
    gateway.kernel.suspensions.fail(only_suspension(resident), Reason.CANCELLED, "no")
    await advance(gateway, 5)
    assert len(caller.answers) == len(gateway.jobs) == 1


# -- panels ------------------------------------------------------------------------------------------


async def test_tool_of_another_panel_is_run_as_this_panel(gateway: Gateway) -> None:
    resident, other = await gateway.add("p"), await gateway.add("q")
    caller = gateway.submit(resident, asking(trigger_of("q", {"set": {"n": 1}})))
    await gateway.settle()
    assert got(caller.last) == [[1, True, []]]
    assert gateway.state(other) == {"n": 1}
    assert json.loads(gateway.jobs[1].scope)["sub"] == "panel:p"


async def test_failure_and_refusal_of_another_panel_are_errors(gateway: Gateway) -> None:
    resident = await gateway.add("p")
    other = await gateway.add("q")
    assert error(await gateway.trigger(resident, asking(trigger_of("q", {"fail": "no"})))) == "HANDLER_ERROR"
    assert error(await gateway.trigger(resident, asking(trigger_of("none")))) == "PANEL_NOT_FOUND"
    assert error(await gateway.trigger(resident, asking(trigger_of("q", tool="none")))) == "TOOL_NOT_FOUND"
    caller = gateway.submit(resident, asking(trigger_of("q", asking())))
    await gateway.settle()
    gateway.kernel.making.delete(other)
    await gateway.settle()
    assert error(caller.last) == "PANEL_NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "args"),
    [("trigger", []), ("trigger", ["q"]), ("trigger", ["q", 1]), ("trigger", ["q", "t", 1, 2]), ("list", ["q", "t"])],
)  # fmt: skip
async def test_call_of_a_panel_that_makes_no_sense_is_an_error(
    gateway: Gateway, method: str, args: list[object]
) -> None:
    resident = await gateway.add()
    assert error(await gateway.trigger(resident, asking(("panels", method, args)))) == "INVALID_REQUEST"


async def test_panels_trigger_one_another_to_a_depth(gateway: Gateway) -> None:
    resident = await gateway.add("p")
    script: dict[str, Any] = {}
    for _ in range(MAX_DEPTH + 1):
        script = asking(trigger_of("p", script))
    caller = gateway.submit(resident, script)
    await gateway.settle()
    assert got(caller.last) == [[1, True, [[1, True, [[1, True, [[1, True, [[1, True, [[1, True, [[1, True, [[1, False, {
        "code": "OVERLOADED", "message": f"expected panels that trigger one another at most {MAX_DEPTH} deep",
    }]]]]]]]]]]]]]]]]  # fmt: skip


async def test_tool_of_another_panel_is_run_once_however_often_it_is_asked(gateway: Gateway) -> None:
    await gateway.add("q")
    resident = await gateway.add("p")
    gateway.submit(resident, asking(trigger_of("q", {"set": {"n": 1}}), ASK))
    await gateway.settle()
    following = await restart(gateway)
    assert following.jobs == []
    resident = await following.open("p")
    await reply(following, only_suspension(resident), 1)
    assert (await following.open("q")).panel.seq == 1


async def test_tool_of_another_panel_that_waits_is_joined_after_a_restart(gateway: Gateway) -> None:
    await gateway.add("q")
    gateway.submit(await gateway.add("p"), asking(trigger_of("q", asking(then={"set": {"n": 1}}))), key="k")
    await gateway.settle()
    following = await restart(gateway)
    first, second = await following.open("p"), await following.open("q")
    await reply(following, only_suspension(second), "yes")
    assert (second.panel.seq, first.waiting) == (2, {})
    assert following.state(second) == {"n": 1}


@pytest.mark.parametrize(
    ("raised", "code"),
    [(JournalError("damaged"), "INTERNAL"), (RequestError(Code.INTERNAL, "damaged"), "INTERNAL")],
)
async def test_panel_that_cannot_be_read_is_an_error(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, raised: Exception, code: str
) -> None:
    resident = await gateway.add()

    async def broken(panel_id: str) -> None:
        raise raised

    monkeypatch.setattr(gateway.kernel.residents, "open", broken)
    assert error(await gateway.trigger(resident, asking(trigger_of("q")))) == code


async def test_tool_is_not_triggered_for_a_handler_that_ended_meanwhile(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, other = await gateway.add(), await gateway.add("q")
    gateway.submit(resident, asking(trigger_of("q", {"set": {"n": 1}})))
    opened = gateway.kernel.residents.open

    async def cancelled(panel_id: str) -> object:
        gateway.kernel.suspensions.fail(only_suspension(resident), Reason.CANCELLED, "no")
        return await opened(panel_id)

    monkeypatch.setattr(gateway.kernel.residents, "open", cancelled)
    await gateway.settle()
    assert gateway.state(other) == {}


# -- people ------------------------------------------------------------------------------------------


def refusal(gateway: Gateway, value: bytes, call: int | None = None) -> Code:
    (suspension,) = next(r for r in gateway.kernel.residents if r.waiting).waiting.values()
    with pytest.raises(RequestError) as caught:
        gateway.kernel.calls.answer(suspension, call, value)
    return caught.value.code


async def test_question_is_an_event_and_is_answered_once(gateway: Gateway) -> None:
    resident = await gateway.add()
    _, socket = gateway.connect(resident)
    caller = gateway.submit(resident, asking(APPROVE, ASK))
    await gateway.settle()
    suspension = only_suspension(resident)
    asked = [message for message in socket.heard if message["type"] == "EVENT"]
    assert [message["event"]["payload"] for message in asked] == [
        {"suspensionId": suspension.name, "call": n, "method": method, "tool": "t", "args": args}
        for n, (_, method, args) in enumerate((APPROVE, ASK), 1)
    ]
    assert refusal(gateway, b"1") is Code.CONFLICT  # which?
    assert refusal(gateway, b"1", 3) is Code.CONFLICT
    assert refusal(gateway, b"1", 1) is Code.INVALID_REQUEST
    await reply(gateway, suspension, True, 1)
    assert refusal(gateway, b"false", 1) is Code.CONFLICT
    await reply(gateway, suspension, {"any": "thing"})
    assert got(caller.last) == [[1, True, True], [2, True, {"any": "thing"}]]
    with pytest.raises(RequestError, match="none"):
        gateway.kernel.calls.answer(suspension, None, b"1")


async def test_question_of_an_unknown_kind_is_an_error(gateway: Gateway) -> None:
    resident = await gateway.add()
    assert error(await gateway.trigger(resident, asking(("human", "order", [])))) == "extension_unknown"


async def test_only_questions_can_be_answered_by_people(gateway: Gateway) -> None:
    resident = await gateway.add()
    gateway.submit(resident, sleeping(1_000))
    await gateway.settle()
    assert refusal(gateway, b"1", 1) is Code.CONFLICT


# -- extensions --------------------------------------------------------------------------------------


class Client:
    """Stands for the extension process: keeps what it is told."""

    def __init__(self, repeatable: bool | None = True) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[CallId] = []
        self._repeatable = repeatable

    def call(self, call: Call) -> None:
        self.calls.append(call)

    def cancel(self, name: CallId) -> None:
        self.cancelled.append(name)

    def repeatable(self, extension: str, method: str) -> bool | None:
        return self._repeatable


def use(gateway: Gateway, client: Client) -> None:
    gateway.kernel.calls.client = cast("ExtensionClient", client)


HTTP = ("http", "get", ["http://x"])


async def test_extension_is_called_and_its_answer_is_given_once(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    resident = await gateway.add()
    caller = gateway.submit(resident, asking(HTTP))
    await gateway.settle()
    (call,) = client.calls
    name = only_suspension(resident).name
    assert (call.id, call.extension, call.method, call.arguments) == (
        f"{name}.1",
        "http",
        "get",
        b'["http://x"]',
    )
    assert (call.panel, call.tool, call.principal, call.suspension) == ("p", "t", "", name)
    assert call.idempotency_key == f"{resident.panel.number}.{name}.1"
    for _ in range(2):
        gateway.kernel.calls.extension_returned(Returned(call.id, b'{"status":200}'))
    await gateway.settle()
    assert got(caller.last) == [[1, True, {"status": 200}]]


def reached(host: str, verdict: Verdict = Verdict.OK) -> LedgerEntry:
    return LedgerEntry(host, "192.0.2.1", 10, 20, 3, ["TOKEN"], verdict)


def exchanges(gateway: Gateway) -> list[list[tuple[int, str]]]:
    """Of each step that was recorded: the calls that reached somebody, and whom."""
    journal = gateway.journal
    assert isinstance(journal, Ledger)
    steps = [record for record in journal.records if isinstance(record, Ran)]
    return [[(exchange.call, exchange.host) for exchange in step.exchanges] for step in steps]


async def test_exchanges_are_in_the_record_of_the_step_that_got_the_answer(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "panels.gateway.egress")
    client = Client()
    use(gateway, client)
    script = asking(HTTP, set={"n": 1}, then=asking(HTTP, set={"n": 2}, then={"set": {"n": 3}}))
    gateway.submit(await gateway.add(), script)
    await gateway.settle()
    first = Returned(client.calls[0].id, b"1", ledger=[reached("a:80"), reached("b:443")])
    gateway.kernel.calls.extension_returned(first)
    await gateway.settle()
    denied = CallError(ErrorCode.DENIED, "no")
    second = Returned(client.calls[1].id, error=denied, ledger=[reached("c:80", Verdict.DENIED)])
    gateway.kernel.calls.extension_returned(second)
    await gateway.settle()
    assert exchanges(gateway) == [[], [(1, "a:80"), (1, "b:443")], [(2, "c:80")]]
    last = cast("Ledger", gateway.journal).records[-2]
    assert isinstance(last, Ran)
    assert last.exchanges == (Exchange(2, "c:80", "192.0.2.1", 10, 20, 3, ("TOKEN",), "denied"),)
    assert [line.split(":")[0] for line in caplog.messages] == ["ok", "ok", "denied"]


async def test_exchanges_of_steps_without_effects_are_in_the_next_record(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    script = asking(HTTP, then=asking(HTTP, then={"set": {"n": 1}}))
    gateway.submit(await gateway.add(), script)
    await gateway.settle()
    for number in (1, 2):
        returned = Returned(client.calls[-1].id, b"1", ledger=[reached(f"h{number}:80")])
        gateway.kernel.calls.extension_returned(returned)
        await gateway.settle()
    assert exchanges(gateway) == [[(1, "h1:80"), (2, "h2:80")]]


async def test_exchanges_of_calls_that_lost_a_race_are_recorded_too(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    script = asking(HTTP, HTTP, ASK, race=True, then={"set": {"n": 1}})
    gateway.submit(await gateway.add(), script)
    await gateway.settle()
    gateway.respond = lambda call: None  # it runs with the first answer when the second comes
    for number in (0, 1):
        returned = Returned(client.calls[number].id, b"1", ledger=[reached(f"h{number}:80")])
        gateway.kernel.calls.extension_returned(returned)
        await gateway.settle()
    gateway.answer_held(Completed(Usage(), b"1", b'[{"op":"set","key":"n","value":1}]', ()))
    await gateway.settle()
    assert exchanges(gateway) == [[], [(1, "h0:80"), (2, "h1:80")]]


async def test_exchanges_outlive_a_restart_and_are_recorded_once(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    nap: tuple[str, str, list[object]] = ("time", "sleep", [60_000])
    script = asking(HTTP, then=asking(HTTP, nap, then={"set": {"n": 1}}))
    gateway.submit(await gateway.add(), script)
    await gateway.settle()
    for number in (1, 2):
        returned = Returned(client.calls[-1].id, b"1", ledger=[reached(f"h{number}:80")])
        gateway.kernel.calls.extension_returned(returned)
        await gateway.settle()
    assert exchanges(gateway) == []
    following = await restart(gateway)
    with time_of(following):
        await advance(following, 60)
    assert exchanges(following) == [[(1, "h1:80"), (2, "h2:80")]]


async def test_exchanges_of_an_answer_that_was_not_given_yet_outlive_a_restart(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    gateway.submit(await gateway.add(), asking(HTTP, then={"set": {"n": 1}}))
    await gateway.settle()
    gateway.respond = lambda call: None  # the gateway is killed while the handler goes on
    gateway.kernel.calls.extension_returned(Returned(client.calls[0].id, b"1", ledger=[reached("a:80")]))
    await gateway.settle()
    gateway.respond = act
    assert exchanges(await restart(gateway)) == [[(1, "a:80")]]


async def test_exchanges_of_a_handler_that_fails_are_with_its_answer(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    gateway.submit(await gateway.add(), asking(HTTP, then={"fail": "no"}), key="k")
    await gateway.settle()
    gateway.kernel.calls.extension_returned(Returned(client.calls[0].id, b"1", ledger=[reached("a:80")]))
    await gateway.settle()
    assert exchanges(gateway) == [[(1, "a:80")]]


async def test_exchanges_in_a_record_are_bounded(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    script = asking(*[HTTP] * 5, then={"set": {"n": 1}})
    gateway.submit(await gateway.add(), script)
    await gateway.settle()
    for call in client.calls:
        ledger = [reached("a:80")] * MAX_LEDGER_ENTRIES
        gateway.kernel.calls.extension_returned(Returned(call.id, b"1", ledger=ledger))
    await gateway.settle()
    assert [len(step) for step in exchanges(gateway)] == [MAX_EXCHANGES]


async def test_error_of_an_extension_is_given_with_its_code(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    caller = gateway.submit(await gateway.add(), asking(HTTP))
    await gateway.settle()
    failed = Returned(client.calls[0].id, error=CallError(ErrorCode.TIMEOUT, "too slow"))
    gateway.kernel.calls.extension_returned(failed)
    await gateway.settle()
    assert error(caller.last) == "extension_timeout"


@pytest.mark.parametrize("repeatable", [True, False])
async def test_lost_call_is_made_again_where_that_is_declared(gateway: Gateway, repeatable: bool) -> None:
    client = Client()
    use(gateway, client)
    caller = gateway.submit(await gateway.add(), asking(HTTP))
    await gateway.settle()
    lost = Returned(client.calls[0].id, error=CallError(ErrorCode.LOST, "gone", repeatable=repeatable))
    gateway.kernel.calls.extension_returned(lost)
    await gateway.settle()
    if repeatable:
        assert client.calls[1] == client.calls[0]
    else:
        assert error(caller.last) == "extension_lost"


async def test_call_that_is_lost_again_and_again_fails(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    caller = gateway.submit(await gateway.add(), asking(HTTP))
    await gateway.settle()
    lost = Returned(client.calls[0].id, error=CallError(ErrorCode.LOST, "gone", repeatable=True))
    for _ in range(module.MAX_LOSSES):
        gateway.kernel.calls.extension_returned(lost)
        await gateway.settle()
    assert len(client.calls) == module.MAX_LOSSES
    assert error(caller.last) == "extension_lost"


@pytest.mark.parametrize("repeatable", [True, None, False])
async def test_open_call_is_made_again_after_a_restart_or_fails_as_declared(
    gateway: Gateway, repeatable: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    use(gateway, client)
    gateway.submit(await gateway.add(), asking(HTTP), key="k")
    await gateway.settle()
    again = Client(repeatable)
    init = module.CallMaker.__init__

    def made(self: module.CallMaker, *args: Any) -> None:
        init(self, *args)
        self.client = cast("ExtensionClient", again)

    monkeypatch.setattr(module.CallMaker, "__init__", made)
    following = await restart(gateway)
    resident = await following.open()
    caller = following.submit(resident, asking(HTTP), key="k", caller=Caller())
    await following.settle()
    if repeatable is False:
        assert error(caller.last) == "extension_lost"
    else:
        assert again.calls == client.calls


async def test_call_of_a_handler_that_ended_is_cancelled(gateway: Gateway) -> None:
    client = Client()
    use(gateway, client)
    resident = await gateway.add()
    gateway.submit(resident, asking(HTTP))
    await gateway.settle()
    gateway.kernel.suspensions.fail(only_suspension(resident), Reason.CANCELLED, "no")
    assert client.cancelled == [client.calls[0].id]
    gateway.kernel.calls.extension_returned(Returned(client.calls[0].id, b"1"))


async def test_extension_that_is_not_there_is_an_error(gateway: Gateway) -> None:
    assert error(await gateway.trigger(await gateway.add(), asking(HTTP))) == "extension_unknown"
