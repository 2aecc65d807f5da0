"""The HTTP API with every status it has, through real sockets."""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.conftest import MakeSystem
from tests.integration.guests import (
    ROOT,
    counter,
    emit,
    fails,
    returns,
    returns_args,
    set_key,
    spins,
    tool,
    traps,
)
from tests.support.clients import RawSocket, refused_status
from tests.support.system import System
from tests.support.tokens import Grants

ECHO = tool("echo", returns_args())


def fresh_id() -> str:
    return f"h-{secrets.token_hex(6)}"


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error body; fails the test unless it is this one, in the one form that errors have."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() <= {"code", "message", "details"}
    assert error["code"] == code, error
    assert error["message"]
    assert response.headers["content-type"] == "application/json"
    return error


# -- POST /panels: 201 -------------------------------------------------------------------------------


def test_panel_is_made_and_said_where_it_is(system: System) -> None:
    panel = fresh_id()
    response = system.post_panel(ECHO, panel_id=panel)

    assert response.status_code == 201
    assert response.json() == {
        "id": panel,
        "status": "active",
        "wsUrl": f"ws://127.0.0.1:{system.port}/panels/{panel}/ws",
    }
    assert response.headers["location"] == f"/panels/{panel}"


def test_panel_without_an_id_is_given_one(system: System) -> None:
    made = [system.http.post("/panels", json={"kind": "k", "tools": []}).json()["id"] for _ in range(2)]

    assert made[0] != made[1]
    assert all(system.http.get(f"/panels/{panel}").status_code == 200 for panel in made)


def test_address_that_the_answer_names_can_be_connected_to(system: System) -> None:
    from tests.support.clients import Client

    url = system.post_panel(ECHO).json()["wsUrl"]
    with Client.connect(url, token=system.token()) as client:
        assert client.call("echo", 1) == 1


def test_address_is_never_made_of_a_host_header_that_cannot_be_one(system: System) -> None:
    body = json.dumps({"kind": "k", "tools": []})
    request = (
        f'POST /panels HTTP/1.1\r\nHost: evil/"><x\r\nAuthorization: Bearer {system.token()}\r\n'
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    with RawSocket.open(system.port) as raw:
        raw.send(request.encode())
        answer = raw.read_to_end()
    assert b"evil" not in answer


def test_every_field_of_a_definition_is_taken(system: System) -> None:
    panel = system.make_panel(
        tool(
            "a",
            returns(1),
            description="says one",
            limits={"fuel": 10**6, "timeoutMs": 100, "memoryBytes": 2**20},
        ),
        tool("b", returns(2), trigger={"type": "manual"}, capabilities=["state:read:*"]),
        state={"x": [1, {"y": None}]},
        title="A title",
        capabilities=["state:read:x", "events:emit:*"],
        metadata={"owner": "ops", "nested": {"a": [1]}},
    )
    shown = system.http.get(f"/panels/{panel}").json()

    assert shown["title"] == "A title"
    assert shown["metadata"] == {"owner": "ops", "nested": {"a": [1]}}
    first, second = shown["tools"]
    assert first["description"] == "says one"
    assert (first["limits"]["fuel"], first["limits"]["timeoutMs"], first["limits"]["memoryBytes"]) == (
        10**6,
        100,
        2**20,
    )
    assert first["capabilities"] == ["state:read:x", "events:emit:*"]
    assert second["capabilities"] == ["state:read:*"]
    assert system.state(panel) == {"x": [1, {"y": None}]}


def test_module_in_base64_is_a_handler(system: System) -> None:
    from wasmtime import wat2wasm

    binary = wat2wasm((ROOT / "examples" / "wat" / "counter.wat").read_text())
    handler = {"language": "wasm", "source": base64.b64encode(binary).decode()}
    panel = system.make_panel({"name": "count", "handler": handler}, state={"count": 1})
    with system.connect(panel) as client:
        assert client.call("count") == 2


def test_module_with_another_entry_is_run_there(system: System) -> None:
    source = str(ECHO["handler"]["source"]).replace('(export "handle")', '(export "elsewhere")')
    handler = {"language": "wat", "source": source, "entry": "elsewhere"}
    panel = system.make_panel({"name": "echo", "handler": handler})
    with system.connect(panel) as client:
        assert client.call("echo", [1]) == [1]


# -- POST /panels: 400, 409, 413, 422, 429 -----------------------------------------------------------


def tools_of(**fields: object) -> dict[str, object]:
    return {"kind": "k", "tools": [{"name": "t", "handler": "return 1", **fields}]}


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "kind"),
        ({"kind": 5, "tools": []}, "kind"),
        ({"kind": "", "tools": []}, "kind"),
        ({"kind": "k", "tools": {}}, "tools"),
        ({"kind": "k", "tools": [5]}, "tools[0]"),
        ({"kind": "k", "tools": [{}]}, "tools[0].name"),
        ({"kind": "k", "tools": [], "id": ""}, "id"),
        ({"kind": "k", "tools": [], "id": "a/b"}, "id"),
        ({"kind": "k", "tools": [], "id": ".."}, "id"),
        ({"kind": "k", "tools": [], "id": "x" * 129}, "id"),
        ({"kind": "k", "tools": [], "id": "a\x00"}, "id"),
        ({"kind": "k", "tools": [], "id": "\u0430dmin"}, "id"),
        ({"kind": "k", "tools": [], "surprise": 1}, "surprise"),
        ({"kind": "k", "tools": [], "initialState": []}, "initialState"),
        ({"kind": "k", "tools": [], "initialState": {"x" * 257: 1}}, "initialState"),
        ({"kind": "k", "tools": [], "title": "x" * 257}, "title"),
        ({"kind": "k", "tools": [], "capabilities": ["everything"]}, "capabilities[0]"),
        ({"kind": "k", "tools": [], "metadata": {"x": "y" * 70_000}}, "metadata"),
        ({"kind": "k", "tools": [{"name": "t"}]}, "tools[0].handler"),
        (tools_of(name="a b"), "tools[0].name"),
        (tools_of(handler=5), "tools[0].handler"),
        (tools_of(handler=""), "tools[0].handler"),
        (tools_of(handler={"language": "cobol", "source": "x"}), "tools[0].handler.language"),
        (tools_of(handler={"language": "wasm"}), "tools[0].handler.source"),
        (tools_of(handler={"language": "wasm", "source": "***"}), "tools[0].handler.source"),
        (tools_of(handler={"language": "wasm", "source": ""}), "tools[0].handler.source"),
        (tools_of(handler={"language": "wat", "source": "(module)", "entry": ""}), "tools[0].handler.entry"),
        (tools_of(handler={"language": "javascript", "source": "return "
                                                               "1", "entry": "x"}), "tools[0].handler.entry"),
        (tools_of(handler={"language": "javascript", "source": "//" + "x" * 300_000}),
        "tools[0].handler.source"),
        (tools_of(limits={"fuel": 0}), "tools[0].limits.fuel"),
        (tools_of(limits={"fuel": 10**16}), "tools[0].limits.fuel"),
        (tools_of(limits={"fuel": "many"}), "tools[0].limits.fuel"),
        (tools_of(limits={"timeoutMs": -1}), "tools[0].limits.timeoutMs"),
        (tools_of(limits={"memoryBytes": 1}), "tools[0].limits.memoryBytes"),
        (tools_of(limits={"memoryBytes": 2**40}), "tools[0].limits.memoryBytes"),
        (tools_of(limits={"furl": 5}), "tools[0].limits.furl"),
        (tools_of(trigger={"type": "sometimes"}), "tools[0].trigger.type"),
        (tools_of(trigger={"type": "interval"}), "tools[0].trigger.ms"),
        (tools_of(capabilities=["state:read:*", "ext:"]), "tools[0].capabilities[1]"),
    ],
)  # fmt: skip
def test_bad_definition_is_400_with_the_path_of_the_field(system: System, body: object, path: str) -> None:
    error = error_of(system.http.post("/panels", json=body), 400, "INVALID_REQUEST")

    assert error["details"]["path"] in (path, path.rpartition(".")[0]), error
    assert len(error["message"]) < 1_000


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[]", b"null", b"{", b'{"kind":NaN}', b'{"kind":"\\ud800"}', b'{"kind":"\xff"}',
    b"[" * 100_000,
     b'{"kind":"k","initialState":' + b'{"a":' * 70 + b"1" + b"}" * 71,
     b'{"kind":"k","initialState":{"n":1e400}}'],
    ids=["empty", "nonsense", "array", "null", "cut", "NaN", "surrogate", "not UTF-8", "deep", "deep state",
    "huge number"],
)  # fmt: skip
def test_body_that_is_no_definition_is_400(system: System, body: bytes) -> None:
    error_of(system.http.post("/panels", content=body), 400, "INVALID_REQUEST")


def test_two_tools_of_one_name_are_400(system: System) -> None:
    error = error_of(system.post_panel(ECHO, ECHO), 400, "INVALID_REQUEST")
    assert error["details"]["path"] == "tools[1].name"


def test_panel_that_exists_is_409(system: System) -> None:
    panel = system.make_panel(ECHO, state={"mine": 1})

    error_of(system.post_panel(panel_id=panel), 409, "PANEL_EXISTS")
    assert system.state(panel) == {"mine": 1}


def test_one_of_many_who_make_the_same_panel_at_once_succeeds(system: System) -> None:
    panel = fresh_id()
    body = {"id": panel, "kind": "k", "tools": [tool("t", returns(panel))]}
    statuses: list[int] = []

    def make() -> None:
        with system.http_client(system.token()) as http:
            statuses.append(http.post("/panels", json=body).status_code)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 5


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_script_that_does_not_compile_is_422_with_its_line(system: System, language: str) -> None:
    details = broken_script(system, language)
    assert details["tool"] == "bad"
    assert details["line"] == details["location"]["line"] == 2, details


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_script_that_does_not_compile_is_422_with_its_column(system: System, language: str) -> None:
    details = broken_script(system, language)
    assert details["column"] == details["location"]["column"] == 11, details


def broken_script(system: System, language: str) -> dict[str, Any]:
    """The details of the refusal of a script with an error in line 2, column 11."""
    handler = {"language": language, "source": "const a = 1;\nconst b = ;\nreturn a;"}
    error = error_of(system.post_panel({"name": "bad", "handler": handler}), 422, "INVALID_HANDLER")
    details: dict[str, Any] = error["details"]
    return details


def test_text_of_a_module_that_does_not_compile_is_422_with_line_and_column(system: System) -> None:
    handler = {"language": "wat", "source": '(module\n  (memory (export "memory") 1)\n  (bogus))'}
    error = error_of(system.post_panel({"name": "bad", "handler": handler}), 422, "INVALID_HANDLER")

    assert (error["details"]["line"], error["details"]["column"]) == (3, 4), error


def test_refused_panel_does_not_exist_and_its_id_is_free(system: System) -> None:
    panel = fresh_id()
    assert system.post_panel({"name": "bad", "handler": "return ;;)"}, panel_id=panel).status_code == 422

    error_of(system.http.get(f"/panels/{panel}"), 404, "PANEL_NOT_FOUND")
    assert system.post_panel(panel_id=panel).status_code == 201


def test_one_bad_tool_among_good_ones_refuses_the_panel(system: System) -> None:
    error = error_of(system.post_panel(ECHO, {"name": "bad", "handler": "}"}), 422, "INVALID_HANDLER")
    assert error["details"]["tool"] == "bad"


def test_body_above_the_limit_is_413(system: System) -> None:
    with system.http_client(system.token()) as http:
        body = b'{"kind":"k","title":"' + b"x" * (4 * 1024 * 1024) + b'"}'
        error_of(http.post("/panels", content=body), 413, "TOO_LARGE")

        def endless() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 65_536

        error_of(http.post("/panels", content=endless()), 413, "TOO_LARGE")


def test_panel_above_the_maximum_is_429_until_one_is_deleted(make_system: MakeSystem) -> None:
    system = make_system(processes=0, gateway=["--max-panels", "2"])
    first, _ = system.make_panel(), system.make_panel()

    refused = system.post_panel()
    error_of(refused, 429, "TOO_MANY_PANELS")
    assert int(refused.headers["retry-after"]) >= 1
    assert system.http.delete(f"/panels/{first}").status_code == 204
    assert system.post_panel().status_code == 201


def test_panel_with_tools_is_503_without_workers(make_system: MakeSystem) -> None:
    system = make_system(processes=0)

    assert system.health() == 503
    error_of(system.post_panel(tool("t", returns("nobody compiles this"))), 503, "UNAVAILABLE")


# -- GET, PUT, DELETE --------------------------------------------------------------------------------


def test_panels_are_listed_in_pages(system: System) -> None:
    stem = f"page-{secrets.token_hex(4)}-"
    made = sorted(system.make_panel(panel_id=f"{stem}{n}") for n in range(5))
    token = system.token(grants=[(f"{stem}*", ["read"])])
    with system.http_client(token) as http:
        whole = http.get("/panels").json()
        first = http.get("/panels", params={"limit": 2}).json()
        second = http.get("/panels", params={"limit": 2, "after": first["next"]}).json()
        third = http.get("/panels", params={"limit": 2, "after": second["next"]}).json()

    assert [panel["id"] for panel in whole["panels"]] == made
    assert whole["next"] is None
    assert [panel["id"] for page in (first, second, third) for panel in page["panels"]] == made
    assert third["next"] is None


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1e2", "９"])
def test_bad_page_size_is_400(system: System, limit: str) -> None:
    error = error_of(system.http.get("/panels", params={"limit": limit}), 400, "INVALID_REQUEST")
    assert error["details"]["path"] == "limit"


def test_panel_is_described_without_its_source(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 3})
    shown = system.http.get(f"/panels/{panel}").json()

    assert shown["id"] == panel
    assert shown["seq"] == 0
    assert shown["clients"] == 0
    assert shown["tools"][0]["name"] == "count"
    assert shown["tools"][0]["trigger"] == {"type": "manual"}
    assert len(shown["tools"][0]["digest"]) == 64
    assert "source" not in json.dumps(shown)


def test_state_is_told_with_its_version(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 3})
    with system.connect(panel) as client:
        client.call("count")

    shown = system.http.get(f"/panels/{panel}/state").json()
    epoch = system.http.get(f"/panels/{panel}").json()["epoch"]
    assert shown == {"panelId": panel, "seq": 1, "epoch": epoch, "state": {"count": 4}}


def test_put_replaces_the_tools_and_keeps_state_and_clients(system: System) -> None:
    panel = system.make_panel(tool("ask", returns("old")), counter(), state={"count": 1})
    with system.connect(panel) as client:
        assert client.call("ask") == "old"
        client.call("count")
        body = {"kind": "k", "tools": [tool("ask", returns("new")), counter()]}
        assert system.http.put(f"/panels/{panel}", json=body).status_code == 200
        assert client.barrier() == []
        assert client.call("ask") == "new"
        assert client.call("count") == 3
        assert system.seq(panel) == 2


def test_put_with_a_state_replaces_it_as_one_version(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 1, "gone": 1, "same": 1})
    with system.connect(panel) as client:
        body = {"kind": "k", "tools": [counter()], "initialState": {"count": 10, "same": 1}}
        assert system.http.put(f"/panels/{panel}", json=body).status_code == 200
        patch = client.receive_type("PATCH")
        assert sorted(patch["mutations"], key=lambda m: str(m["key"])) == [
            {"op": "set", "key": "count", "value": 10},
            {"op": "delete", "key": "gone"},
        ]
        assert patch["seq"] == 1
        assert client.call("count") == 11


def test_put_removes_a_tool(system: System) -> None:
    panel = system.make_panel(ECHO, counter())
    with system.connect(panel) as client:
        client.call("echo")
        assert (
            system.http.put(f"/panels/{panel}", json={"kind": "k", "tools": [counter()]}).status_code == 200
        )
        assert client.trigger("echo").code == "TOOL_NOT_FOUND"
        assert client.call("count") == 1


def test_put_that_is_refused_changes_nothing(system: System) -> None:
    panel = system.make_panel(ECHO, state={"a": 1})
    bad: list[tuple[dict[str, object], int]] = [
        ({"kind": "k", "tools": [{"name": "x", "handler": "}"}], "initialState": {}}, 422),
        ({"kind": "k", "id": "another", "tools": []}, 400),
        ({"tools": []}, 400),
    ]
    for body, status in bad:
        assert system.http.put(f"/panels/{panel}", json=body).status_code == status
    with system.connect(panel) as client:
        assert client.hello["state"] == {"a": 1}
        assert client.hello["seq"] == 0
        assert client.call("echo", 1) == 1


def test_triggers_that_wait_run_by_the_tools_that_replace_theirs(system: System) -> None:
    slow = tool("slow", spins(), limits={"timeoutMs": 3_000, "fuel": 10**10})
    panel = system.make_panel(slow, tool("ask", returns("old")), ECHO)
    with system.connect(panel) as client:
        sent = [client.send_trigger(name) for name in ("slow", "ask", "echo")]
        client.barrier()
        body = {"kind": "k", "tools": [tool("slow", returns("fast")), tool("ask", returns("new"))]}
        assert system.http.put(f"/panels/{panel}", json=body).status_code == 200
        answers = client.await_answers(sent)

    assert [answer.final["type"] for answer in answers] == ["RESULT", "RESULT", "ERROR"]
    assert answers[1].value == "new"
    assert answers[2].code == "TOOL_NOT_FOUND"


def test_delete_is_204_once(system: System) -> None:
    panel = system.make_panel(ECHO)
    response = system.http.delete(f"/panels/{panel}")

    assert (response.status_code, response.content) == (204, b"")
    error_of(system.http.delete(f"/panels/{panel}"), 404, "PANEL_NOT_FOUND")


def test_panel_made_anew_under_an_old_id_begins_anew(system: System) -> None:
    panel = system.make_panel(counter(), state={"count": 5})
    with system.connect(panel) as client:
        client.call("count")
    system.http.delete(f"/panels/{panel}")
    system.make_panel(counter(), panel_id=panel)
    with system.connect(panel) as client:
        assert (client.hello["state"], client.hello["seq"]) == ({}, 0)
        assert client.call("count") == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/panels/{id}"), ("PUT", "/panels/{id}"), ("DELETE", "/panels/{id}"),
        ("GET", "/panels/{id}/state"),
        ("POST", "/panels/{id}/trigger/echo"),
    ],
)  # fmt: skip
def test_unknown_panel_is_404(system: System, method: str, path: str) -> None:
    body = {"kind": "k", "tools": []} if method == "PUT" else None
    response = system.http.request(method, path.format(id="no-such-panel"), json=body)
    error_of(response, 404, "PANEL_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/panels/", "/panels/a/b/c", "/panels/a/state/", "/docs", "/openapi.json"]
)
def test_unknown_path_is_404(system: System, path: str) -> None:
    error_of(system.http.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/panels", {"GET", "POST", "HEAD"}),
        ("POST", "/panels/a", {"GET", "PUT", "DELETE", "HEAD"}),
        ("PATCH", "/panels/a", {"GET", "PUT", "DELETE", "HEAD"}), ("PUT", "/panels/a/state", {"GET", "HEAD"}),
        ("GET", "/panels/a/trigger/x", {"POST"}), ("POST", "/health", {"GET", "HEAD"}),
        ("TRACE", "/metrics", {"GET", "HEAD"}),
    ],
)  # fmt: skip
def test_method_that_a_path_does_not_take_is_405(
    system: System, method: str, path: str, allowed: set[str]
) -> None:
    response = system.http.request(method, path)
    error_of(response, 405, "METHOD_NOT_ALLOWED")
    assert {name.strip() for name in response.headers["allow"].split(",")} == allowed


# -- POST /panels/{id}/trigger/{tool} ----------------------------------------------------------------


def test_trigger_answers_what_a_websocket_would_and_broadcasts(system: System) -> None:
    panel = system.make_panel(tool("go", set_key("went", True), emit("gone", 1), returns("there")))
    with system.connect(panel) as watcher:
        response = system.http.post(f"/panels/{panel}/trigger/go", json={"args": 5, "requestId": "r"})
        assert [message["type"] for message in watcher.barrier()] == ["PATCH", "EVENT"]

    assert response.status_code == 200
    body = response.json()
    assert (body["type"], body["requestId"]) == ("RESULT", "r")
    assert body["result"]["status"] == "success"
    assert body["result"]["returnValue"] == "there"


def test_trigger_needs_no_body(system: System) -> None:
    panel = system.make_panel(ECHO)
    response = system.http.post(f"/panels/{panel}/trigger/echo")
    assert (response.status_code, response.json()["result"]["returnValue"]) == (200, None)


def test_trigger_of_an_unknown_tool_is_404(system: System) -> None:
    panel = system.make_panel(ECHO)
    for name in ("missing", "x" * 500):
        error_of(system.http.post(f"/panels/{panel}/trigger/{name}"), 404, "TOOL_NOT_FOUND")


@pytest.mark.parametrize(("name", "reason"), [("trap", "TRAP"), ("refuse", "HANDLER_ERROR")])
def test_trigger_that_fails_is_422_with_the_reason(system: System, name: str, reason: str) -> None:
    panel = system.make_panel(tool("trap", traps()), tool("refuse", fails("no")))
    error = error_of(system.http.post(f"/panels/{panel}/trigger/{name}"), 422, "EXECUTION_ERROR")
    assert error["details"]["reason"] == reason


@pytest.mark.parametrize(
    "body",
    [b"nonsense", b"[]", b"5", b'{"args":NaN}', b'{"args":1e999}', b'{"args":"\\ud800"}', b'{"more":1}',
     b'{"requestId":5}', b'{"args":' + b"[" * 65 + b"]" * 65 + b"}", b'{"requestId":"' + b"x" * 300 + b'"}'],
    ids=["nonsense", "array", "number", "NaN", "huge", "surrogate", "field", "requestId", "deep",
    "long requestId"],
)  # fmt: skip
def test_trigger_with_a_bad_body_is_400(system: System, body: bytes) -> None:
    panel = system.make_panel(ECHO)
    error_of(system.http.post(f"/panels/{panel}/trigger/echo", content=body), 400, "PARSE_ERROR")


def test_trigger_with_a_body_above_the_limit_is_413(system: System) -> None:
    panel = system.make_panel(ECHO)
    with system.http_client(system.token()) as http:
        response = http.post(f"/panels/{panel}/trigger/echo", content=b" " * (1024 * 1024 + 1))
        error_of(response, 413, "TOO_LARGE")


def test_trigger_above_the_queue_of_a_panel_is_503_with_a_time_to_wait(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--max-queue-per-panel", "4"])
    panel = system.make_panel(tool("slow", spins(), limits={"timeoutMs": 300, "fuel": 10**10}))
    with system.connect(panel) as client:
        sent = [client.send_trigger("slow") for _ in range(12)]
        answers = [answer.final for answer in client.await_answers(sent[-2:])]
        assert {answer["code"] for answer in answers} == {"OVERLOADED"}
        assert all(answer["retryAfterMs"] > 0 for answer in answers)
        response = system.http.post(f"/panels/{panel}/trigger/slow")
        error_of(response, 503, "OVERLOADED")
        assert int(response.headers["retry-after"]) >= 1


def test_triggers_of_a_client_above_its_rate_are_told_when_to_come_again(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--trigger-rate", "1", "--trigger-burst", "5"])
    panel = system.make_panel(ECHO)
    with system.connect(panel) as client:
        answers = [client.trigger("echo").final for _ in range(7)]
        assert [answer["type"] for answer in answers[:5]] == ["RESULT"] * 5
        assert answers[5]["code"] == answers[6]["code"] == "RATE_LIMITED"
        assert 0 < answers[5]["retryAfterMs"] <= 2_000
    with system.connect(panel) as other:
        assert other.call("echo", 1) == 1


def test_triggers_of_a_client_above_its_window_are_overloaded_at_once(make_system: MakeSystem) -> None:
    system = make_system(processes=1, gateway=["--max-in-flight", "3"])
    panel = system.make_panel(tool("slow", spins(), limits={"timeoutMs": 200, "fuel": 10**10}))
    with system.connect(panel) as client:
        for _ in range(5):
            client.send_trigger("slow")
        refused = [message for message in client.barrier() if message.get("code") == "OVERLOADED"]
        assert [message["requestId"] for message in refused] == ["r4", "r5"]


# -- who may -----------------------------------------------------------------------------------------


def requests_of(system: System, panel: str) -> dict[str, tuple[str, str, object]]:
    return {
        "read": ("GET", f"/panels/{panel}", None),
        "state": ("GET", f"/panels/{panel}/state", None),
        "trigger a": ("POST", f"/panels/{panel}/trigger/a", None),
        "trigger b": ("POST", f"/panels/{panel}/trigger/b", None),
        "replace": (
            "PUT",
            f"/panels/{panel}",
            {"kind": "k", "tools": [tool("a", returns(1)), tool("b", returns(2))]},
        ),
        "create": ("POST", "/panels", {"id": f"{panel}-new", "kind": "k", "tools": []}),
        "delete": ("DELETE", f"/panels/{panel}", None),
    }


@pytest.mark.parametrize(
    ("allow", "allowed"),
    [
        ([], set()),
        (["read"], {"read", "state"}),
        (["trigger:a"], {"trigger a"}),
        (["trigger:*"], {"trigger a", "trigger b"}),
        (["read", "trigger:b"], {"read", "state", "trigger b"}),
        (["manage"], {"replace", "create", "delete"}),
        (
            ["read", "trigger:*", "manage"],
            {"read", "state", "trigger a", "trigger b", "replace", "create", "delete"},
        ),
    ],
)
def test_permissions_of_a_token_decide_what_it_may(
    system: System, allow: list[str], allowed: set[str]
) -> None:
    panel = system.make_panel(tool("a", returns(1)), tool("b", returns(2)))
    grants: Grants = [("elsewhere", ["read", "trigger:*", "manage"]), (f"{panel}*", allow)]
    with system.http_client(system.token(grants=grants)) as http:
        for name, (method, path, body) in requests_of(system, panel).items():
            response = http.request(method, path, json=body)
            if name in allowed:
                assert response.is_success, (name, response.text)
            else:
                error_of(response, 403, "FORBIDDEN")


def test_permissions_hold_for_a_websocket_too(system: System) -> None:
    panel = system.make_panel(tool("a", returns(1)), tool("b", returns(2)))
    with system.connect(panel, token=system.token(grants=[(panel, ["read", "trigger:a"])])) as client:
        assert client.call("a") == 1
        assert client.trigger("b").code == "FORBIDDEN"
        assert client.trigger("missing").code == "TOOL_NOT_FOUND"


def test_list_shows_what_the_token_may_read(system: System) -> None:
    mine, _ = system.make_panel(), system.make_panel()
    with system.http_client(system.token(grants=[(mine, ["read"])])) as http:
        assert [panel["id"] for panel in http.get("/panels").json()["panels"]] == [mine]


@pytest.mark.parametrize(
    "claim",
    [5, {}, [5], [{"id": "x"}], [{"id": "x", "allow": "read"}], [{"id": "x", "allow": ["fly"]}], None],
)
def test_token_with_a_malformed_claim_is_401(system: System, claim: object) -> None:
    with system.http_client(system.issuer.mint(panels=claim)) as http:
        error_of(http.get("/panels"), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/panels"), ("POST", "/panels"), ("GET", "/panels/{id}"), ("PUT", "/panels/{id}"),
    ("DELETE", "/panels/{id}"),
     ("GET", "/panels/{id}/state"), ("POST", "/panels/{id}/trigger/echo")],
)  # fmt: skip
def test_request_without_a_good_token_is_401(system: System, method: str, path: str) -> None:
    panel = system.make_panel(ECHO)
    for token in (None, "nonsense", system.issuer.mint(expires_in_s=-60)):
        with system.http_client(token) as http:
            response = http.request(method, path.format(id=panel))
            error_of(response, 401, "UNAUTHORIZED")
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert system.http.get(f"/panels/{panel}").status_code == 200


def test_two_tokens_that_differ_are_401(system: System) -> None:
    response = system.http.get("/panels", params={"token": system.token(subject="another")})
    error_of(response, 401, "UNAUTHORIZED")


def test_health_needs_no_token(system: System) -> None:
    with system.http_client(None) as http:
        response = http.get("/health")
    assert (response.status_code, response.json()["status"]) == (200, "ready")


def test_conceals_panels_when_asked_to(make_system: MakeSystem) -> None:
    system = make_system(processes=0, gateway=["--conceal-panels"])
    panel = system.make_panel()
    stranger = system.token(grants=[("elsewhere", ["read"])])

    for name in (panel, "no-such-panel"):
        assert refused_status(lambda name=name: system.connect(name, token="nonsense"))[0] == 401  # type: ignore[misc]
        status, error = refused_status(lambda name=name: system.connect(name, token=stranger))  # type: ignore[misc]
        assert (status, error["message"].replace(name, "?")) == (404, error["message"].replace(name, "?"))
        with system.http_client(stranger) as http:
            error_of(http.get(f"/panels/{name}"), 404, "PANEL_NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_page_of_another_origin_may_change_nothing(system: System, method: str) -> None:
    panel = system.make_panel()
    path = "/panels" if method == "POST" else f"/panels/{panel}"
    response = system.http.request(
        method, path, headers={"Origin": "https://evil.example"}, json={"kind": "k"}
    )
    error_of(response, 403, "FORBIDDEN")


# -- metrics -----------------------------------------------------------------------------------------


def test_metrics_are_in_the_format_of_prometheus(system: System) -> None:
    panel = system.make_panel(ECHO)
    with system.connect(panel) as client:
        client.call("echo")
    response = system.http.get("/metrics")

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.text.splitlines()
    names = {line.split("{")[0].split(" ")[0] for line in lines if line and not line.startswith("#")}
    assert all(name.startswith(("panels_", "process_")) for name in names), names
    typed = {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}
    assert names <= typed | {
        name + suffix for name in typed for suffix in ("_bucket", "_sum", "_count", "_total")
    }
    assert panel not in response.text
