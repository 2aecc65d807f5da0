"""The WebSocket API, sentence by sentence, through real sockets.

Each docstring quotes the sentence it tests.
"""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import (
    counter,
    delete_key,
    emit,
    fails,
    returns,
    returns_args,
    set_from_args,
    set_key,
    spins,
    tool,
    traps,
    view,
)
from tests.support.clients import Client, refused_status
from tests.support.system import System, eventually
from tests.support.tokens import Issuer

GREET = tool(
    "greet",
    set_key("greeted", True),
    set_key("who", {"name": "ada"}),
    delete_key("old"),
    emit("hello", {"to": "all"}),
    emit("bye"),
    view("main", "scrollTo", {"y": 10}),
    returns({"ok": True}),
    capabilities=["state:read:*", "state:write:*", "events:emit:*", "view:update:*"],
)
ECHO = tool("echo", returns_args())
QUIET = tool("quiet", emit("only"))


@pytest.fixture(scope="module")
def greeter(system: System) -> str:
    """A panel whose tools touch everything a handler can."""
    return system.make_panel(GREET, ECHO, QUIET, state={"old": 1, "kept": [1, 2]})


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [str(message["type"]) for message in messages]


# -- connection establishment and authentication -----------------------------------------------------


def test_endpoint_accepts_a_client_with_a_token_in_the_query(system: System, greeter: str) -> None:
    """Endpoint: /panels/:id/ws.

    Establish WebSocket connections with JWT token authentication via query parameter.
    """
    with Client.connect(system.socket_url(greeter), token=system.token()) as client:
        assert client.hello["panelId"] == greeter


def test_http_api_is_served_on_the_port_of_the_websocket(system: System) -> None:
    """The WebSocket API sits on top of the HTTP server."""
    assert httpx.get(f"{system.url}/health", trust_env=False).status_code == 200


def test_upgrade_is_refused_with_404_for_an_unknown_panel(system: System) -> None:
    """Panel not found during upgrade: Upgrade handler rejects with 404 Not Found."""
    status, error = refused_status(lambda: system.connect("no-such-panel"))

    assert (status, error["code"]) == (404, "PANEL_NOT_FOUND")


@pytest.mark.parametrize("token", [None, "nonsense", "a.b.c"])
def test_upgrade_checks_the_panel_before_the_token(system: System, token: str | None) -> None:
    """Flowchart: Panel exists? No → Reject 404; only then Auth enabled? and Token present?"""
    url = system.socket_url("no-such-panel")

    assert refused_status(lambda: Client.connect(url, token=token))[0] == 404


def test_upgrade_is_refused_with_401_without_a_token(system: System, greeter: str) -> None:
    """If authEnabled is true, the token must be present. Token present? No → Reject 401."""
    status, error = refused_status(lambda: Client.connect(system.socket_url(greeter)))

    assert (status, error["code"]) == (401, "UNAUTHORIZED")


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    good = issuer.mint()
    head, payload, signature = good.split(".")
    return {
        "garbage": "garbage",
        "another issuer's": Issuer().mint(),
        "expired": issuer.mint(expires_in_s=-60),
        "never expiring": issuer.mint_without_expiry(),
        "not yet valid": issuer.mint(nbf=int(time.time()) + 600),
        "cut": f"{head}.{payload}.{signature[:-4]}",
        "unsigned": f"{head}.{payload}.",
        "alg none": f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.",
        "other family": issuer.mint(algorithm="HS512"),
        "far future": issuer.mint(expires_in_s=10**9),
        "too long": good + "A" * 9_000,
    }


@pytest.mark.parametrize("kind", [name for name in bad_tokens(Issuer()) if name != "too long"])
def test_upgrade_is_refused_with_401_for_a_bad_token(system: System, greeter: str, kind: str) -> None:
    """JWT verification failure: Upgrade handler rejects with 401 Unauthorized."""
    token = bad_tokens(system.issuer)[kind]
    status, error = refused_status(lambda: Client.connect(system.socket_url(greeter), token=token))

    assert (status, error["code"]) == (401, "UNAUTHORIZED")
    assert token not in json.dumps(error)


def test_refusal_is_a_whole_http_answer_and_closes_the_socket(system: System) -> None:
    """Reject 404 and close socket: a real HTTP response before the upgrade, not a close code."""
    from tests.support.clients import RawSocket, upgrade_request

    with RawSocket.open(system.port) as raw:
        raw.send(upgrade_request("/panels/no-such-panel/ws"))
        answer = raw.read_to_end()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n"), answer
    assert json.loads(body)["error"]["code"] == "PANEL_NOT_FOUND"


def test_upgrade_takes_any_or_no_token_without_authentication(open_system: System) -> None:
    """Authentication: Optional JWT verification. Auth enabled? No → Accept WebSocket."""
    panel = open_system.make_panel()

    for token in (None, "nonsense"):
        with Client.connect(open_system.socket_url(panel), token=token) as client:
            assert client.hello["panelId"] == panel


def test_upgrade_takes_a_token_from_the_authorization_header(system: System, greeter: str) -> None:
    """Design: tokens are taken from ?token=, Authorization: Bearer, or the subprotocols."""
    headers = [("Authorization", f"Bearer {system.token()}")]

    with Client.connect(system.socket_url(greeter), headers=headers) as client:
        assert client.hello["panelId"] == greeter


def test_upgrade_takes_a_token_from_the_subprotocols_and_answers_with_the_other(
    system: System, greeter: str
) -> None:
    """Design: Sec-WebSocket-Protocol: panels.v1, bearer.<jwt>; the token is never sent back."""
    offered = ["panels.v1", f"bearer.{system.token()}"]

    with Client.connect(system.socket_url(greeter), subprotocols=offered) as client:
        assert client.connection.subprotocol == "panels.v1"


def test_upgrade_of_a_panel_that_the_token_may_not_read_is_403(system: System, greeter: str) -> None:
    """Design: without the permission the answer is FORBIDDEN."""
    token = system.token(grants=[("elsewhere", ["read"])])
    status, error = refused_status(lambda: system.connect(greeter, token=token))

    assert (status, error["code"]) == (403, "FORBIDDEN")


def test_tokens_never_reach_a_log(system: System, greeter: str) -> None:
    """Design: tokens never reach a log, good ones or bad, whichever way they came."""
    good = system.issuer.mint("canary")
    bad = good[:-6] + "AAAAAA"
    for token in (good, bad):
        ways: list[dict[str, Any]] = [
            {"token": token},
            {"headers": [("Authorization", f"Bearer {token}")]},
            {"subprotocols": ["panels.v1", f"bearer.{token}"]},
        ]
        for way in ways:
            try:
                Client.connect(system.socket_url(greeter), **way).close()
            except Exception as refused:
                assert token not in str(refused)
    httpx.get(f"{system.url}/nowhere", params={"token": good}, trust_env=False)

    logs = "".join(process.text for process in system.processes())
    assert good.split(".")[1] not in logs


def test_session_ends_when_its_token_does(make_system: MakeSystem) -> None:
    """Design: an open WebSocket is closed with 4401 once its token has expired."""
    system = make_system(processes=0)
    panel = system.make_panel()
    token = system.issuer.mint(expires_in_s=2)

    with system.connect(panel, token=token) as client:
        assert client.await_close()[0] == 4401


# -- CONNECTED ---------------------------------------------------------------------------------------


def test_connected_is_the_first_message_with_the_current_state(system: System, greeter: str) -> None:
    """CONNECTED: Sent upon successful connection with panelId and current state. panelId: string, state:
    object.
    """
    with system.connect(greeter) as client:
        assert client.hello["type"] == "CONNECTED"
        assert client.hello["panelId"] == greeter
        assert client.hello["state"] == system.state(greeter)
        assert client.hello["seq"] == system.seq(greeter)


def test_connected_shows_what_was_committed_before(system: System) -> None:
    """Send CONNECTED with current state: not with the state that the panel began with."""
    panel = system.make_panel(counter(), state={"count": 5})
    with system.connect(panel) as client:
        assert client.hello["state"] == {"count": 5}
        client.call("count")
    with system.connect(panel) as client:
        assert client.hello["state"] == {"count": 6}
        assert client.hello["seq"] == 1


def test_connected_has_an_empty_object_for_a_panel_without_state(system: System) -> None:
    """state: object."""
    with system.connect(system.make_panel(ECHO)) as client:
        assert client.hello["state"] == {}
        assert client.hello["seq"] == 0


# -- TRIGGER and RESULT ------------------------------------------------------------------------------


def test_result_has_every_field_of_an_execution_result(system: System, greeter: str) -> None:
    """RESULT: Sent in response to TRIGGER with requestId and execution result; result: ExecutionResult."""
    with system.connect(greeter) as client:
        answer = client.trigger("greet")

    result = answer.result
    assert answer.final["requestId"] == "r1"
    assert result["status"] == "success"
    assert result["returnValue"] == {"ok": True}
    assert {"op": "set", "key": "greeted", "value": True} in result["stateMutations"]
    assert {"op": "set", "key": "who", "value": {"name": "ada"}} in result["stateMutations"]
    assert [event["name"] for event in result["events"]] == ["hello", "bye"]
    assert result["events"][0]["payload"] == {"to": "all"}
    assert result["events"][1]["payload"] is None
    assert result["viewCommands"] == [{"viewId": "main", "command": "scrollTo", "params": {"y": 10}}]
    metrics = result["metrics"]
    for name in ("executionTimeUs", "memoryUsedBytes", "memoryPeakBytes", "hostCalls", "fuelConsumed"):
        assert isinstance(metrics[name], int), name
    assert isinstance(metrics["cacheHit"], bool)
    assert metrics["hostCalls"] == 7
    assert metrics["fuelConsumed"] > 0
    assert metrics["memoryPeakBytes"] >= 65_536


def test_result_has_no_request_id_when_the_trigger_had_none(system: System, greeter: str) -> None:
    """requestId: string (optional)."""
    with system.connect(greeter) as client:
        client.send({"type": "TRIGGER", "tool": "echo", "args": 1})
        assert "requestId" not in client.receive_type("RESULT")


def test_result_repeats_the_request_id_exactly(system: System, greeter: str) -> None:
    """optional requestId for correlation."""
    for request_id in ("", "1", "ünï\u2028côde \U0001f600", 'quote"\\', "x" * 256):
        with system.connect(greeter) as client:
            client.send_trigger("echo", request_id=request_id)
            assert client.receive_type("RESULT")["requestId"] == request_id


def test_handler_sees_null_when_the_trigger_has_no_args(system: System, greeter: str) -> None:
    """args: any (optional)."""
    with system.connect(greeter) as client:
        assert client.call("echo") is None


@pytest.mark.parametrize(
    "args",
    [
        None, True, 0, -1, 1.5, "", "text", ("ünïcôde \U0001f600 "
                                            "\u2028"), [], {}, [1, [2, [3]]], {"a": {"b": [None]}},
        2**53 + 1, -(2**63), 2**64 - 1, 1e308, {"__proto__": {"admin": True}}, {"": 0}, "\x00\x1f\x7f",
    ],
)  # fmt: skip
def test_args_reach_the_handler_unchanged(system: System, greeter: str, args: object) -> None:
    """args: any."""
    with system.connect(greeter) as client:
        assert client.call("echo", args) == args


def test_triggers_are_answered_once_each(system: System, greeter: str) -> None:
    """Design: exactly one RESULT or ERROR answers each TRIGGER."""
    tools = ["echo", "missing", "greet", "quiet"] * 10
    with system.connect(greeter) as client:
        sent = [client.send_trigger(name, at) for at, name in enumerate(tools)]
        answers: dict[str, int] = {}
        while len(answers) < len(sent):
            message = client.receive()
            if message["type"] in ("RESULT", "ERROR"):
                answers[message["requestId"]] = answers.get(message["requestId"], 0) + 1
        late = [m for m in client.barrier() if m["type"] in ("RESULT", "ERROR")]

    assert answers == dict.fromkeys(sent, 1)
    assert late == []


def test_triggers_of_one_client_run_in_the_order_it_sent_them(system: System) -> None:
    """Design: triggers of one panel run in order of arrival, as if one at a time."""
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as client:
        sent = [client.send_trigger("count") for _ in range(100)]
        results = [client.receive_type("RESULT") for _ in sent]

    assert [result["requestId"] for result in results] == sent
    assert [result["result"]["returnValue"] for result in results] == list(range(1, 101))


# -- PATCH and EVENT ---------------------------------------------------------------------------------


def test_caller_sees_patch_then_events_then_result(system: System, greeter: str) -> None:
    """Sequence diagram: PATCH {mutations}, EVENT {event}, RESULT {requestId, result}."""
    with system.connect(greeter) as client:
        answer = client.trigger("greet")

    assert types([*answer.heard, answer.final]) == ["PATCH", "EVENT", "EVENT", "RESULT"]


def test_patch_has_the_mutations_and_the_version(system: System) -> None:
    """PATCH: Broadcast state mutations; mutations: StateMutation[]."""
    panel = system.make_panel(GREET, state={"old": 1})
    with system.connect(panel) as client:
        patch = client.trigger("greet").heard[0]

    assert patch["type"] == "PATCH"
    assert patch["seq"] == 1
    assert sorted(patch["mutations"], key=lambda m: str(m["key"])) == [
        {"op": "set", "key": "greeted", "value": True},
        {"op": "delete", "key": "old"},
        {"op": "set", "key": "who", "value": {"name": "ada"}},
    ]


def test_patch_is_applied_to_the_panel_state(system: System) -> None:
    """When a handler executes and produces stateMutations, the server applies them to the panel state."""
    panel = system.make_panel(GREET, state={"old": 1, "kept": [1]})
    with system.connect(panel) as client:
        client.call("greet")

    assert system.state(panel) == {"kept": [1], "greeted": True, "who": {"name": "ada"}}


def test_event_has_name_payload_and_timestamp(system: System, greeter: str) -> None:
    """EVENT: Broadcast emitted events; event: EmittedEvent."""
    before_ms = time.time() * 1000
    with system.connect(greeter) as client:
        event = client.trigger("greet").heard[1]["event"]

    assert event["name"] == "hello"
    assert event["payload"] == {"to": "all"}
    assert before_ms - 1_000 < event["timestamp"] < time.time() * 1000 + 1_000


def test_patch_and_events_reach_all_clients_of_the_panel(system: System, greeter: str) -> None:
    """Broadcast scope: All messages are sent to all clients connected to the same panel."""
    with (
        system.connect(greeter) as caller,
        system.connect(greeter) as first,
        system.connect(greeter) as second,
    ):
        sent = caller.trigger("greet").heard
        assert first.barrier() == second.barrier() == sent
        assert types(sent) == ["PATCH", "EVENT", "EVENT"]


def test_result_reaches_the_caller_alone(system: System, greeter: str) -> None:
    """Server-->>Client RESULT: Sent in response to TRIGGER."""
    with system.connect(greeter) as caller, system.connect(greeter) as watcher:
        caller.call("greet")
        assert "RESULT" not in types(watcher.barrier())


def test_broadcasts_stay_within_their_panel(system: System, greeter: str) -> None:
    """All messages are sent to all clients connected to the same panel: and to no other."""
    other = system.make_panel(GREET)
    with system.connect(greeter) as caller, system.connect(other) as stranger:
        caller.call("greet")
        assert stranger.barrier() == []


def test_version_goes_up_by_one_for_each_commit(system: System) -> None:
    """Design: seq is gapless, one for each commit with any effect; an event alone is one."""
    panel = system.make_panel(counter(), QUIET, state={"count": 0})
    with system.connect(panel) as client:
        for _ in range(3):
            client.call("count")
            client.call("quiet")
        client.send_trigger("count")
        patch = client.receive_type("PATCH")

    assert patch["seq"] == 7
    assert system.seq(panel) == 7


def test_trigger_without_mutations_sends_no_patch(system: System, greeter: str) -> None:
    """When a handler executes and produces stateMutations ... broadcasts PATCH: and without any, none."""
    with system.connect(greeter) as client:
        assert types(client.trigger("quiet").heard) == ["EVENT"]
        assert types(client.trigger("echo").heard) == []


def test_patch_carries_values_of_the_client_unchanged(system: System) -> None:
    """StateMutation.value is what the handler set, to the last digit."""
    panel = system.make_panel(tool("keep", set_from_args("kept")))
    for value in (2**64 - 1, -0.5, "\u2028\U0001f600\x00", {"__proto__": [1], "deep": {"er": []}}):
        with system.connect(panel) as client:
            patch = client.trigger("keep", value).heard[0]
            assert patch["mutations"] == [{"op": "set", "key": "kept", "value": value}]
        assert system.state(panel)["kept"] == value


# -- subscriptions -----------------------------------------------------------------------------------


def hears(caller: Client, watcher: Client) -> list[str]:
    """What a trigger of ``greet`` brings to a watcher."""
    caller.call("greet")
    return types(watcher.barrier())


def test_client_hears_state_and_events_by_default(system: System, greeter: str) -> None:
    """Default subscriptions: On connect, clients subscribe to state and events by default."""
    with system.connect(greeter) as caller, system.connect(greeter) as watcher:
        assert hears(caller, watcher) == ["PATCH", "EVENT", "EVENT"]


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["state"], ["EVENT", "EVENT"]),
        (["events"], ["PATCH"]),
        (["state", "events"], []),
        (["unheard-of"], ["PATCH", "EVENT", "EVENT"]),
        ([], ["PATCH", "EVENT", "EVENT"]),
    ],
)
def test_unsubscribe_removes_topics(
    system: System, greeter: str, topics: list[str], expected: list[str]
) -> None:
    """UNSUBSCRIBE: Remove topics from the client's subscription set."""
    with system.connect(greeter) as caller, system.connect(greeter) as watcher:
        watcher.send({"type": "UNSUBSCRIBE", "topics": topics})
        assert watcher.barrier() == []
        assert hears(caller, watcher) == expected


def test_subscribe_adds_topics_again(system: System, greeter: str) -> None:
    """SUBSCRIBE: Add topics to the client's subscription set."""
    with system.connect(greeter) as caller, system.connect(greeter) as watcher:
        watcher.send({"type": "UNSUBSCRIBE", "topics": ["state", "events"]})
        assert hears(caller, watcher) == []
        watcher.send({"type": "SUBSCRIBE", "topics": ["events"]})
        assert hears(caller, watcher) == ["EVENT", "EVENT"]
        watcher.send({"type": "SUBSCRIBE", "topics": ["state"]})
        assert hears(caller, watcher) == ["PATCH", "EVENT", "EVENT"]


def test_subscribing_twice_does_not_deliver_twice(system: System, greeter: str) -> None:
    """subscription set."""
    with system.connect(greeter) as caller, system.connect(greeter) as watcher:
        watcher.send({"type": "SUBSCRIBE", "topics": ["state", "state", "events", "state:who"]})
        assert watcher.barrier() == []
        assert hears(caller, watcher) == ["PATCH", "EVENT", "EVENT"]


def test_subscriptions_of_one_client_leave_others_alone(system: System, greeter: str) -> None:
    """the client's subscription set."""
    with (
        system.connect(greeter) as caller,
        system.connect(greeter) as watcher,
        system.connect(greeter) as other,
    ):
        watcher.send({"type": "UNSUBSCRIBE", "topics": ["state", "events"]})
        assert watcher.barrier() == []
        assert hears(caller, watcher) == []
        assert types(other.barrier()) == ["PATCH", "EVENT", "EVENT"]


def test_caller_that_unsubscribed_still_gets_its_result(system: System, greeter: str) -> None:
    """RESULT: Sent in response to TRIGGER, whatever the topics."""
    with system.connect(greeter) as client:
        client.send({"type": "UNSUBSCRIBE", "topics": ["state", "events"]})
        assert client.trigger("greet").heard == []


@pytest.mark.parametrize(
    ("topics", "keys", "events"),
    [
        (["state:who"], ["who"], []),
        (["state:gre*"], ["greeted"], []),
        (["state:*"], ["greeted", "old", "who"], []),
        (["event:hello"], [], ["hello"]),
        (["event:b*"], [], ["bye"]),
        (["event:*", "state:old"], ["old"], ["hello", "bye"]),
        (["state:wh", "event:hell", "state:", "event:"], [], []),
    ],
)
def test_finer_topics_choose_keys_and_names(
    system: System, topics: list[str], keys: list[str], events: list[str]
) -> None:
    """Design: finer topics state:<key>, event:<name>; a trailing * matches a prefix."""
    panel = system.make_panel(GREET, state={"old": 1})
    with system.connect(panel) as caller, system.connect(panel) as watcher:
        watcher.send({"type": "UNSUBSCRIBE", "topics": ["state", "events"]})
        watcher.send({"type": "SUBSCRIBE", "topics": topics})
        assert watcher.barrier() == []
        caller.call("greet")
        heard = watcher.barrier()

    patched = [mutation["key"] for m in heard if m["type"] == "PATCH" for mutation in m["mutations"]]
    assert sorted(patched) == keys
    assert [m["event"]["name"] for m in heard if m["type"] == "EVENT"] == events


# -- PING --------------------------------------------------------------------------------------------


def test_ping_is_answered_with_pong(system: System, greeter: str) -> None:
    """PING: Heartbeat request; server responds with PONG. (no fields)"""
    with system.connect(greeter) as client:
        assert client.answer_to('{"type":"PING"}') == {"type": "PONG"}


def test_ping_is_answered_while_a_trigger_runs(system: System) -> None:
    """This helps detect dead connections and maintain liveness: a busy panel is not a dead connection."""
    panel = system.make_panel(tool("slow", spins(), limits={"timeoutMs": 700, "fuel": 10_000_000_000}))
    with system.connect(panel) as client:
        sent = client.send_trigger("slow")
        assert client.barrier() == []
        assert client.await_answer(sent).reason == "TIMEOUT"


def test_protocol_ping_is_answered_too(system: System, greeter: str) -> None:
    """RFC 6455 section 5.5.2: upon receipt of a Ping frame, an endpoint must send a
    Pong frame in response.
    """
    with system.connect(greeter) as client:
        assert client.connection.ping(b"payload").wait(10)


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"type":"DANCE"}', "UNKNOWN_MESSAGE"),
        ('{"type":"trigger","tool":"echo"}', "UNKNOWN_MESSAGE"),
        ('{"type":"CONNECTED"}', "UNKNOWN_MESSAGE"),
        ("not json", "PARSE_ERROR"),
        ("{", "PARSE_ERROR"),
        ("", "PARSE_ERROR"),
        ('{"type":"TRIGGER","tool":"missing"}', "TOOL_NOT_FOUND"),
    ],
)
def test_errors_have_code_and_message(system: System, greeter: str, text: str, code: str) -> None:
    """Unknown message type: UNKNOWN_MESSAGE. Parse errors: PARSE_ERROR. Tool not found: TOOL_NOT_FOUND."""
    with system.connect(greeter) as client:
        error = client.answer_to(text)
        assert (error["type"], error["code"]) == ("ERROR", code)
        assert isinstance(error["message"], str)
        assert error["message"]
        assert "requestId" not in error


def test_errors_carry_the_request_id_of_the_message(system: System, greeter: str) -> None:
    """Design: ERROR also carries requestId when there was one."""
    with system.connect(greeter) as client:
        for text in (
            '{"type":"TRIGGER","tool":"missing","requestId":"7"}',
            '{"type":"TRIGGER","tool":5,"requestId":"7"}',
            '{"type":"DANCE","requestId":"7"}',
        ):
            assert client.answer_to(text)["requestId"] == "7"


@pytest.mark.parametrize(("name", "reason"), [("trap", "TRAP"), ("refuse", "HANDLER_ERROR")])
def test_failed_execution_is_an_error_with_a_message(system: System, name: str, reason: str) -> None:
    """Execution failures: Server sends ERROR with code EXECUTION_ERROR and includes a message."""
    panel = system.make_panel(tool("trap", traps()), tool("refuse", fails("the sky is falling")))
    with system.connect(panel) as client:
        answer = client.trigger(name)

    assert answer.reason == reason
    assert answer.final["message"]
    assert answer.heard == []
    assert answer.final["details"]["fuelConsumed"] > 0


def test_failed_execution_says_what_the_handler_said(system: System) -> None:
    """includes a message."""
    panel = system.make_panel(tool("refuse", set_key("a", 1), fails('the "sky" is\nfalling')))
    with system.connect(panel) as client:
        assert 'the "sky" is\nfalling' in client.trigger("refuse").final["message"]


def test_deleted_panel_answers_what_waits_and_closes_its_clients(system: System) -> None:
    """Panel not found: Server sends ERROR with code PANEL_NOT_FOUND."""
    slow = tool("slow", spins(), limits={"timeoutMs": 1_000, "fuel": 10_000_000_000})
    panel = system.make_panel(slow)
    with system.connect(panel) as client:
        sent = [client.send_trigger("slow") for _ in range(3)]
        client.barrier()
        assert system.http.delete(f"/panels/{panel}").status_code == 204
        code, heard = client.await_close()

    answers = {m["requestId"]: m["code"] for m in heard if m["type"] == "ERROR"}
    assert answers == dict.fromkeys(sent, "PANEL_NOT_FOUND")
    assert code == 4404
    assert refused_status(lambda: system.connect(panel))[0] == 404


def test_connection_remains_open_after_errors(system: System, greeter: str) -> None:
    """On error: the connection remains open until the client closes it."""
    with system.connect(greeter) as client:
        for text in ("nonsense", '{"type":"DANCE"}', '{"type":"TRIGGER","tool":"missing"}', "[]", "null"):
            assert client.answer_to(text)["type"] == "ERROR"
        assert client.call("echo", "still here") == "still here"


# -- lifecycle and cleanup ---------------------------------------------------------------------------


def test_client_is_added_on_connect_and_removed_on_close(system: System) -> None:
    """On connect: added to the panel's client set. On close: removed from the panel's client set."""
    panel = system.make_panel()
    assert system.clients_of(panel) == 0
    first, second = system.connect(panel), system.connect(panel)
    assert system.clients_of(panel) == 2
    first.close()
    eventually(lambda: system.clients_of(panel) == 1)
    second.close()
    eventually(lambda: system.clients_of(panel) == 0)


def test_client_that_vanishes_is_removed_too(system: System) -> None:
    """session cleanup: a client that is cut off without a closing handshake."""
    panel = system.make_panel()
    raw = system.connect_raw(panel)
    assert raw.read_message()["type"] == "CONNECTED"
    assert system.clients_of(panel) == 1
    raw.reset()
    eventually(lambda: system.clients_of(panel) == 0)


def test_close_of_a_client_is_answered(system: System, greeter: str) -> None:
    """Client closes → Remove from clients and panel clients → Disconnected."""
    client = system.connect(greeter)
    client.connection.close(1000, "done")
    assert client.connection.close_code == 1000


def test_trigger_of_a_client_that_left_takes_effect(system: System) -> None:
    """A trigger that was accepted runs, whether or not somebody still waits for its answer."""
    panel = system.make_panel(counter(), state={"count": 0})
    with system.connect(panel) as watcher:
        client = system.connect(panel)
        client.send_trigger("count")
        client.close()
        assert watcher.receive_type("PATCH")["mutations"] == [{"op": "set", "key": "count", "value": 1}]


def test_graceful_shutdown_closes_all_connections(make_system: MakeSystem) -> None:
    """Graceful shutdown: On server stop, all WebSocket connections are closed and the server is shut down."""
    system = make_system(processes=0)
    panels = [system.make_panel() for _ in range(2)]
    clients = [system.connect(panel) for panel in panels for _ in range(3)]

    system.the_gateway().signal(signal.SIGTERM)

    assert [client.await_close()[0] for client in clients] == [1012] * 6
    assert system.the_gateway().wait() == 0
    assert system.health() is None
