"""What authors of handlers rely on, through a real gateway and worker: errors with codes, ids, the scope,
defaults of arguments, versions that are expected, and schemas.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from panels_client import CallError, Options, Panel, connect
from tests.integration.guests import fails, fails_with_code, script, tool
from tests.support.system import System

TAKEN = "$fail('TITLE_TAKEN', 'there is a card of that title', { title: $args.title, by: ['ann'] });"
CODED = {"handlerCode": "TITLE_TAKEN", "handlerDetails": {"title": "a", "by": ["ann"]}}


def coded(details: dict[str, Any]) -> dict[str, Any]:
    return {name: details[name] for name in details if name.startswith("handler")}


@pytest.mark.parametrize("kind", ["javascript", "wat"])
def test_failure_has_a_code_over_websocket_and_http(system: System, kind: str) -> None:
    if kind == "javascript":
        made = script("t", TAKEN)
    else:
        made = tool(
            "t",
            fails_with_code("TITLE_TAKEN", CODED["handlerDetails"]),
            fails("there is a card of that title"),
        )
    panel = system.make_panel(made)
    with system.connect(panel) as client:
        error = client.trigger("t", {"title": "a"}).final
    assert error["code"] == "EXECUTION_ERROR"
    assert error["message"] == "there is a card of that title"
    assert coded(error["details"]) == CODED
    answer = system.http.post(f"/panels/{panel}/trigger/t", json={"args": {"title": "a"}})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "there is a card of that title"
    assert coded(answer.json()["error"]["details"]) == CODED


def test_stored_failure_keeps_its_code(system: System) -> None:
    panel = system.make_panel(script("t", TAKEN))
    with system.connect(panel) as client:
        answers = []
        for name in ("a", "b"):
            asked = {"type": "TRIGGER", "tool": "t", "args": {"title": "a"}, "idempotencyKey": "k"}
            client.send({**asked, "requestId": name})
            answers.append(client.await_answer(name).final)
    assert [coded(answer["details"]) for answer in answers] == [CODED, CODED]


def test_scope_says_who_where_and_by_what_and_history_has_it(system: System) -> None:
    panel = system.make_panel(script("who", "$state.n = ($state.n ?? 0) + 1; return $scope;"))
    with system.connect(panel, token=system.token(subject="ada")) as client:
        scope = client.await_answer(client.send_trigger("who", request_id="r-1")).value
        assert scope == {
            "sub": "ada", "panelId": panel, "requestId": "r-1", "clientId": client.hello["clientId"]
        }  # fmt: skip
    answer = system.http.get(f"/panels/{panel}/history")
    assert answer.json()["commits"][0]["scope"] == scope


def test_ids_are_sorted_and_unique_over_many_jobs(system: System) -> None:
    panel = system.make_panel(script("make", "return [$id(), $id()];"))
    with system.connect(panel) as client:
        ids = [made for _ in range(20) for made in client.call("make")]
    assert len(set(ids)) == 40
    assert all(len(made) == 26 for made in ids)
    assert [made[:10] for made in ids] == sorted(made[:10] for made in ids)


def test_default_of_a_parameter_applies_where_no_args_came(system: System) -> None:
    panel = system.make_panel(script("add", "({ by = 2 } = {}) => ($state.n = ($state.n ?? 0) + by)"))
    with system.connect(panel) as client:
        assert [client.call("add"), client.call("add", None), client.call("add", {"by": 5})] == [2, 4, 9]


def test_expected_version_decides_whether_a_trigger_runs(system: System) -> None:
    panel = system.make_panel(script("set", "$state.n = $args;"))
    with system.connect(panel) as client:
        client.send({"type": "TRIGGER", "tool": "set", "args": 1, "requestId": "a", "expectedSeq": 0})
        client.send({"type": "TRIGGER", "tool": "set", "args": 2, "requestId": "b", "expectedSeq": 0})
        client.send({"type": "TRIGGER", "tool": "set", "args": 3, "requestId": "c", "expectedSeq": 1})
        answers = [answer.final for answer in client.await_answers(["a", "b", "c"])]
    assert [answer["type"] for answer in answers] == ["RESULT", "ERROR", "RESULT"]
    assert (answers[1]["code"], answers[1]["details"]) == ("CONFLICT", {"expectedSeq": 0, "seq": 1})
    refused = system.http.post(f"/panels/{panel}/trigger/set", json={"args": 9, "expectedSeq": 7})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
    taken = system.http.post(f"/panels/{panel}/trigger/set", json={"args": 4, "expectedSeq": 2})
    assert taken.status_code == 200
    assert system.state(panel) == {"n": 4}


def test_client_is_told_codes_and_may_expect_a_version(system: System) -> None:
    panel_id = system.make_panel(script("t", TAKEN), script("set", "$state.n = $args;"))

    async def whole() -> None:
        options = Options(proxy=None)
        async with connect(system.url, panel=panel_id, token=system.token(), options=options) as panel:
            with pytest.raises(CallError) as caught:
                await panel.call("t", {"title": "a"})
            assert coded(caught.value.details) == CODED
            assert (await panel.call("set", 1, expected_seq=panel.seq)).seq == 1
            with pytest.raises(CallError, match="CONFLICT"):
                await panel.call("set", 2, expected_seq=0)
            assert (panel.seq, dict(panel.state)) == (1, {"n": 1})

    asyncio.run(whole())


def test_arguments_are_checked_by_the_tools_schema_before_anything_is_queued(system: System) -> None:
    schema = {
        "type": "object",
        "required": ["title"],
        "properties": {"title": {"type": "string", "maxLength": 5}, "by": {"$ref": "#/$defs/name"}},
        "$defs": {"name": {"type": "string", "pattern": "^[a-z]+$"}},
    }
    returns = {"type": "string"}
    panel = system.make_panel(script("add", "return $args.title;", args=schema, returns=returns))
    with system.connect(panel) as client:
        assert client.call("add", {"title": "a", "by": "ann"}) == "a"
        for args, path in (
            (None, "args"),
            ({"title": "abcdef"}, "args.title"),
            ({"title": "a", "by": "A"}, "args.by"),
        ):
            error = client.trigger("add", args).final
            assert (error["code"], error["details"]) == ("INVALID_ARGUMENTS", {"path": path})
    answer = system.http.post(f"/panels/{panel}/trigger/add", json={"args": {"title": 5}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_ARGUMENTS")
    shown = system.http.get(f"/panels/{panel}").json()["tools"][0]
    assert (shown["args"], shown["returns"]) == (schema, returns)
    refused = system.post_panel(script("t", "return 1;", args={"pattern": "("}))
    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["path"] == "tools[0].args"


def test_event_for_one_subject_reaches_all_its_clients_and_no_other(system: System) -> None:
    whisper = "$emit('whisper', $args.text, { to: $args.to }); $emit('all'); return null;"
    panel = system.make_panel(script("tell", whisper))
    ada, bob = system.token(subject="ada"), system.token(subject="bob")
    with (
        system.connect(panel, token=ada) as first,
        system.connect(panel, token=ada) as second,
        system.connect(panel, token=bob) as other,
    ):
        answer = other.await_answer(other.send_trigger("tell", {"to": "ada", "text": "hi"}))
        assert [event["name"] for event in answer.final["result"]["events"]] == ["all"]
        for client, heard in ((first, ["whisper", "all"]), (second, ["whisper", "all"]), (other, ["all"])):
            before = client.barrier() if client is not other else answer.heard
            told = [message["event"] for message in before if message["type"] == "EVENT"]
            assert [event["name"] for event in told] == heard
            assert [event.get("to") for event in told] == ["ada"] * (len(heard) - 1) + [None]


def test_presence_is_seen_by_clients_and_handlers_and_is_in_the_record(system: System) -> None:
    see = script("see", "$state.n = 1; return $presence;", capabilities=["state:write:*", "presence:read"])
    panel = system.make_panel(
        see, script("blind", "return [$presence, $scope.presence ?? null];"), presence=True
    )

    async def run() -> None:
        topics = ["state", "presence"]
        async with connect(system.url, panel=panel, token=system.token(subject="ada"), topics=topics) as ada:
            async with connect(system.url, panel=panel, token=system.token(subject="bob")) as bob:
                await reached(ada, {"ada": 1, "bob": 1})
                assert (await bob.call("see")).value == {"ada": 1, "bob": 1}
                assert (await bob.call("blind")).value == [{}, None]
                assert bob.presence.clients == 0
            await reached(ada, {"ada": 1})
            assert ada.presence.clients == 1

    asyncio.run(run())
    (commit,) = system.http.get(f"/panels/{panel}/history").json()["commits"]
    assert commit["scope"]["presence"] == {"ada": 1, "bob": 1}
    replayed = system.http.post(f"/panels/{panel}/replay", json={"seq": 1}).json()
    assert replayed["equal"], replayed


async def reached(panel: Panel, subjects: dict[str, int]) -> None:
    """Returns once the panel has heard that these are there."""
    heard = asyncio.Event()
    end = panel.on_presence(lambda _: heard.set())
    async with asyncio.timeout(30):
        while dict(panel.presence.subjects) != subjects:
            await heard.wait()
            heard.clear()
    end()


def test_tools_share_modules_and_a_handler_that_waits_ends_with_one_that_it_imports(system: System) -> None:
    def made(limit: int) -> dict[str, Any]:
        take = (
            'import { within } from "./rules.js";\n'
            "export default async function (n) {\n"
            "  if ($args === 'ask') await $ext.human.ask('?');\n"
            "  return within($args === 'ask' ? 5 : n);\n"
            "}"
        )
        peek = 'import { limit } from "./rules.js"; export default () => limit;'
        rules = (
            f"export const limit = {limit};\n"
            "export function within(n) {\n"
            "  if (n > limit) $fail('TOO_MUCH', `at most ${limit}`);\n"
            "  return n;\n"
            "}"
        )
        return {
            "kind": "test",
            "tools": [
                script("take", take, capabilities=["ext:human", "state:write:*"]),
                script("peek", peek),
            ],
            "modules": {"rules.js": rules, "unused.ts": "export const a: number = 1;"},
        }

    panel = system.http.post("/panels", json=made(10)).json()["id"]
    shown = system.http.get(f"/panels/{panel}").json()
    assert sorted(shown["modules"]) == ["rules.js", "unused.ts"]
    with system.connect(panel) as client:
        assert [client.call("take", 7), client.call("peek")] == [7, 10]
        waiting = client.send_trigger("take", "ask")
        progress = client.receive_type("PROGRESS")
        # the same handlers, so that the one that waits goes on
        assert system.http.put(f"/panels/{panel}", json=made(10) | {"title": "T"}).status_code == 200
        client.send({"type": "ANSWER", "suspensionId": progress["suspensionId"], "value": 1})
        assert client.await_answer(waiting).value == 5
        waiting = client.send_trigger("take", "ask")
        client.receive_type("PROGRESS")
        assert system.http.put(f"/panels/{panel}", json=made(3)).status_code == 200
        assert client.await_answer(waiting).reason == "RESUME_FAILED"
        assert client.call("peek") == 3
        failed = client.trigger("take", 7).final
        assert failed["details"]["handlerCode"] == "TOO_MUCH"
        assert failed["details"]["stack"].split("\n")[0].startswith("    at within (rules.js:3:")
        assert failed["details"]["location"]["line"] == 4
    wrong = made(3) | {"modules": {"rules.js": "export const limit = ;"}}
    refused = system.http.put(f"/panels/{panel}", json=wrong).json()["error"]
    assert refused["code"] == "INVALID_HANDLER"
    assert "rules.js:1:22: SyntaxError" in refused["message"]
    fork = system.http.post(f"/panels/{panel}/fork", json={}).json()["id"]
    with system.connect(fork) as client:
        assert client.call("peek") == 3
