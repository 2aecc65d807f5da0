"""One client: what it may do, what it hears, what it waits for, and what is left of it when it is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_gateway.access.tokens import principal_of
from panels_gateway.broadcast.topics import MAX_TOPICS
from panels_gateway.clients.connection import ClientLimits, Connection
from panels_gateway.dispatch.limits import DispatchLimits
from panels_gateway.journal.memory import MemoryJournal
from panels_shared.errors import CloseCode
from panels_shared.outcome import Failed, Reason, Usage
from panels_shared.rate import RateLimit
from tests.support.gateway import Gateway, Socket
from tests.support.waiting import act, asking, only_suspension, reply

pytestmark = pytest.mark.anyio


async def connected(gateway: Gateway, limits: ClientLimits | None = None) -> tuple[Connection, Socket]:
    connection, socket = gateway.connect(await gateway.add(state={"n": 0}), limits=limits)
    await gateway.settle()
    return connection, socket


def say(connection: Connection, kind: str, **fields: object) -> None:
    connection.receive_text(json.dumps({"type": kind, **fields}))


def codes(socket: Socket) -> list[Any]:
    return [message.get("code") for message in socket.heard[1:]]


async def test_client_is_told_the_state_the_version_and_the_epoch() -> None:
    gateway = Gateway()
    _, socket = await connected(gateway)
    epoch = (await gateway.open()).panel.epoch
    assert socket.heard == [
        {
            "type": "CONNECTED",
            "panelId": "p",
            "state": {"n": 0},
            "seq": 0,
            "epoch": epoch,
            "clientId": "client",
        }
    ]


async def test_client_that_joins_within_a_turn_hears_only_what_is_not_in_its_state() -> None:
    gateway = Gateway()
    resident = await gateway.add(state={"n": 0})
    _, first = gateway.connect(resident)
    gateway.kernel.commits.change(resident, {"n": b"1"}, cause="test", subject=None)
    _, second = gateway.connect(resident)
    gateway.kernel.commits.change(resident, {"n": b"2"}, cause="test", subject=None)
    await gateway.settle()
    assert first.words == ["CONNECTED 0", "PATCH 1", "PATCH 2"]
    assert second.words == ["CONNECTED 1", "PATCH 2"]


async def test_ping_is_answered() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    say(connection, "PING")
    await gateway.settle()
    assert socket.words[-1] == "PONG"


async def test_what_is_no_message_is_an_error_with_its_request_id() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    connection.receive_text("nonsense")
    say(connection, "TRIGGER", requestId="r")
    say(connection, "SHOUT")
    await gateway.settle()
    assert codes(socket) == ["PARSE_ERROR", "PARSE_ERROR", "UNKNOWN_MESSAGE"]
    assert socket.heard[2]["requestId"] == "r"


async def test_trigger_that_is_not_accepted_is_an_error_and_counts_for_nothing() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    say(connection, "TRIGGER", tool="none", requestId="r")
    connection.principal = principal_of("eve", expires_at=None, grants=())
    say(connection, "TRIGGER", tool="t")
    say(connection, "TRIGGER", tool="t", idempotencyKey="")
    await gateway.settle()
    assert codes(socket) == ["TOOL_NOT_FOUND", "FORBIDDEN", "PARSE_ERROR"]
    assert connection.in_flight == 0


async def test_failure_is_an_error_with_its_reason() -> None:
    gateway = Gateway()
    gateway.respond = lambda call: Failed(Usage(), Reason.TIMEOUT, "no")
    connection, socket = await connected(gateway)
    say(connection, "TRIGGER", tool="t", requestId="r")
    await gateway.settle()
    error = socket.heard[-1]
    assert (error["code"], error["details"]["reason"], error["requestId"]) == (
        "EXECUTION_ERROR",
        "TIMEOUT",
        "r",
    )


async def test_idempotency_key_gives_the_same_result_under_another_request_id() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    for request_id in ("one", "two"):
        say(connection, "TRIGGER", tool="t", args={"set": {"n": 1}}, requestId=request_id, idempotencyKey="k")
        await gateway.settle()
    first, second = [message for message in socket.heard if message["type"] == "RESULT"]
    assert (first.pop("requestId"), second.pop("requestId")) == ("one", "two")
    assert first == second
    assert len(gateway.jobs) == 1


async def test_same_request_id_twice_runs_twice() -> None:
    gateway = Gateway()
    connection, _ = await connected(gateway)
    for _ in range(2):
        say(connection, "TRIGGER", tool="t", args={"set": {"n": 1}}, requestId="r")
    await gateway.settle()
    assert (await gateway.open()).panel.seq == 2


async def test_triggers_above_what_is_admitted_wait_here_and_keep_their_order() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway, ClientLimits(in_flight=5, admitted=2))
    gateway.respond = lambda call: None
    for number in range(7):
        say(connection, "TRIGGER", tool="t", requestId=f"{number}")
    await gateway.settle()
    assert (connection.in_flight, connection.admitted, len(connection.backlog)) == (5, 2, 3)
    assert codes(socket) == ["OVERLOADED", "OVERLOADED"]
    while gateway.held:
        gateway.answer_held()
        await gateway.settle()
    answered = [message["requestId"] for message in socket.heard if message["type"] == "RESULT"]
    assert answered == ["0", "1", "2", "3", "4"]
    assert (connection.in_flight, connection.admitted) == (0, 0)


async def test_long_backlog_that_is_answered_at_once_is_not_answered_by_nested_calls() -> None:
    gateway = Gateway(MemoryJournal(fold_s=3_600.0))
    connection, socket = await connected(gateway, ClientLimits(in_flight=2_000, admitted=1))
    say(connection, "TRIGGER", tool="t", requestId="first", idempotencyKey="k")
    await gateway.settle()
    gateway.respond = lambda call: None
    say(connection, "TRIGGER", tool="t", requestId="slow")
    for number in range(1_000):
        say(connection, "TRIGGER", tool="t", requestId=f"{number}", idempotencyKey="k")
    await gateway.settle()
    gateway.answer_held()
    await gateway.settle()
    answered = [message["requestId"] for message in socket.heard if message["type"] == "RESULT"]
    assert answered == ["first", "slow", *map(str, range(1_000))]
    assert (connection.in_flight, connection.admitted) == (0, 0)


async def test_backlog_goes_on_where_the_panel_s_queue_is_full() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_per_panel=1))
    connection, socket = await connected(gateway, ClientLimits(in_flight=9, admitted=2))
    for number in range(4):
        say(connection, "TRIGGER", tool="t", requestId=f"{number}")
    await gateway.settle()
    assert connection.in_flight == 0
    assert sorted(message["requestId"] for message in socket.heard[1:]) == ["0", "1", "2", "3"]


async def test_rate_is_bounded_and_says_when_to_try_again() -> None:
    gateway = Gateway()
    limits = ClientLimits(rate=RateLimit(per_s=2.0, burst=1))
    connection, socket = await connected(gateway, limits)
    for _ in range(2):
        say(connection, "TRIGGER", tool="t")
    await gateway.settle()
    refused = next(message for message in socket.heard if message["type"] == "ERROR")
    assert (refused["code"], refused["retryAfterMs"]) == ("RATE_LIMITED", 500)
    gateway.now_s += 0.5
    say(connection, "TRIGGER", tool="t")
    await gateway.settle()
    assert len(gateway.jobs) == 2


async def test_answers_count_towards_the_rate() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway, ClientLimits(rate=RateLimit(per_s=2.0, burst=1)))
    for number in range(2):
        say(connection, "ANSWER", suspensionId="00", call=1, value=None, requestId=str(number))
    await gateway.settle()
    assert [(message["code"], message["requestId"]) for message in socket.heard[1:]] == [
        ("NOT_FOUND", "0"),
        ("RATE_LIMITED", "1"),
    ]


# -- topics ------------------------------------------------------------------------------------------


async def test_topics_change_from_the_next_commit_and_are_told_where_asked() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    resident = await gateway.open()
    say(connection, "UNSUBSCRIBE", topics=["state"], requestId="r")
    await gateway.trigger(resident, {"set": {"n": 1}, "emit": {"e": 1}})
    say(connection, "SUBSCRIBE", topics=["state:n"])
    await gateway.put(resident, n=2)
    say(connection, "SUBSCRIBE", topics=["state"], requestId="s")
    await gateway.settle()
    told, event, patch, last = socket.heard[1:]
    assert (told["type"], told["requestId"], told["topics"], told["seq"]) == (
        "SUBSCRIBED",
        "r",
        ["events"],
        0,
    )
    assert (event["type"], event["seq"]) == ("EVENT", 1)
    assert (patch["type"], patch["seq"]) == ("PATCH", 2)
    assert (last["requestId"], last["topics"], last["seq"]) == ("s", ["events", "state", "state:n"], 2)


async def test_topics_above_their_bound_are_refused() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    say(connection, "SUBSCRIBE", topics=[f"state:{n}" for n in range(MAX_TOPICS - 1)], requestId="r")
    await gateway.settle()
    assert (codes(socket), socket.heard[-1]["requestId"]) == (["PARSE_ERROR"], "r")
    assert connection.topics.are_default


@pytest.mark.parametrize("told", [False, True])
async def test_client_whose_topics_become_the_default_sees_no_gap(told: bool) -> None:
    """It was not told of the last version, and the frames that all others share do not say so."""
    gateway = Gateway()
    connection, socket = await connected(gateway)
    resident = await gateway.open()
    say(connection, "UNSUBSCRIBE", topics=["state"])
    await gateway.put(resident, n=1)
    say(connection, "SUBSCRIBE", topics=["state"], **({"requestId": "r"} if told else {}))
    for number in (2, 3):
        await gateway.put(resident, n=number)
    patches = [message for message in socket.heard if message["type"] == "PATCH"]
    # SUBSCRIBED names the version that it is at; without it, the next message says what it follows
    assert [(patch["seq"], patch.get("prevSeq")) for patch in patches] == [
        (2, None if told else 0),
        (3, None),
    ]


# -- the end -----------------------------------------------------------------------------------------


async def test_binary_message_closes_behind_what_is_queued() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway)
    say(connection, "PING")
    connection.receive_binary()
    assert not socket.is_closed
    await gateway.settle()
    assert socket.words[-1] == "PONG"
    assert socket.closed == (CloseCode.UNSUPPORTED_DATA, "expected text frames")


async def test_triggers_of_a_client_that_is_gone_still_run_and_nobody_is_told() -> None:
    gateway = Gateway()
    connection, socket = await connected(gateway, ClientLimits(admitted=1))
    for _ in range(3):
        say(connection, "TRIGGER", tool="t", args={"set": {"n": 1}})
    connection.lost()
    connection.lost()
    connection.close(CloseCode.UNSUPPORTED_DATA, "late")
    say(connection, "PING")
    await gateway.settle()
    assert (await gateway.open()).panel.seq == 3
    assert socket.words == ["CONNECTED 0"]
    assert socket.closed is None
    assert gateway.kernel.counters.connections == 0


async def test_decoding_is_measured_when_it_is_sampled() -> None:
    gateway = Gateway()
    connection, _ = await connected(gateway)
    stages = gateway.kernel.stages
    stages.decodes = stages.again = 1
    say(connection, "PING")
    assert sum(stages.histograms["decode"].counts) == 1


async def test_client_hears_progress_and_one_result() -> None:
    gateway = Gateway()
    gateway.respond = act
    connection, socket = await connected(gateway)
    say(connection, "TRIGGER", tool="t", requestId="r", args=asking(then=asking()))
    await gateway.settle()
    resident = await gateway.open()
    for value in (1, 2):
        await reply(gateway, only_suspension(resident), value)
    heard = [message for message in socket.heard if message["type"] in ("PROGRESS", "RESULT", "ERROR")]
    assert [(message["type"], message["requestId"]) for message in heard] == [
        ("PROGRESS", "r"), ("PROGRESS", "r"), ("RESULT", "r"),
    ]  # fmt: skip
    assert heard[0]["extension"] == "human"
    assert (connection.in_flight, connection.admitted, connection.suspended) == (0, 0, set())


async def test_client_may_send_more_while_its_handlers_wait() -> None:
    gateway = Gateway()
    gateway.respond = act
    connection, socket = await connected(gateway, ClientLimits(admitted=1))
    say(connection, "TRIGGER", tool="t", requestId="a", args=asking(), idempotencyKey="k")
    say(connection, "TRIGGER", tool="t", requestId="b", args=asking(), idempotencyKey="k")
    say(connection, "TRIGGER", tool="t", requestId="c")
    await gateway.settle()
    assert [message["requestId"] for message in socket.heard if message["type"] == "RESULT"] == ["c"]
    assert [message["requestId"] for message in socket.heard if message["type"] == "PROGRESS"] == ["a", "b"]
    await reply(gateway, only_suspension(await gateway.open()), 1)
    results = [message["requestId"] for message in socket.heard if message["type"] == "RESULT"]
    assert results == ["c", "a", "b"]
    assert (connection.in_flight, connection.admitted) == (0, 0)


async def test_client_that_is_gone_leaves_its_handlers_waiting() -> None:
    gateway = Gateway()
    gateway.respond = act
    connection, socket = await connected(gateway)
    say(connection, "TRIGGER", tool="t", requestId="a", args=asking(then=asking()))
    await gateway.settle()
    connection.lost()
    heard = len(socket.heard)
    for value in (1, 2):
        await reply(gateway, only_suspension(await gateway.open()), value)
    assert len(socket.heard) == heard
    assert (connection.in_flight, connection.admitted) == (0, 0)


async def test_trigger_with_a_key_that_meets_a_gateway_that_stops_is_left_to_be_sent_again() -> None:
    gateway = Gateway()
    resident = await gateway.add("p")
    connection, socket = gateway.connect(resident)
    gateway.kernel.intake.closing = True
    for key in ({"idempotencyKey": "k"}, {}):
        connection.receive_text(json.dumps({"type": "TRIGGER", "tool": "t", "requestId": "r", **key}))
        connection.receive_text(json.dumps({"type": "TRIGGER", "tool": "none", "requestId": "s", **key}))
    await gateway.settle()
    told = [(message["requestId"], message["code"]) for message in socket.heard if message["type"] == "ERROR"]
    assert told == [("s", "TOOL_NOT_FOUND"), ("r", "UNAVAILABLE"), ("s", "TOOL_NOT_FOUND")]
    assert connection.in_flight == 0
