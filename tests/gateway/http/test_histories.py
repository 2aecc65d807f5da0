"""A panel's state and commits over HTTP, now and earlier, and the way back."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from panels_gateway.http import histories
from panels_gateway.journal.memory import MemoryJournal
from panels_gateway.journal.records import Exchange, Ran
from panels_gateway.kernel.residents import Resident
from panels_shared.errors import Code
from panels_shared.outcome import Failed, Outcome, Reason, Usage
from tests.gateway.builders import setting
from tests.gateway.http.callers import assert_error, grant, make_client
from tests.support.gateway import Call, Gateway, completed, follow
from tests.support.waiting import act, asking, only_suspension

pytestmark = pytest.mark.anyio


async def counted(gateway: Gateway, commits: int = 3) -> Resident:
    """A panel whose ``n`` is its version."""
    resident = await gateway.add("p", state={"n": 0})
    for number in range(1, commits + 1):
        await gateway.put(resident, n=number)
    return resident


async def get(client: httpx.AsyncClient, path: str, **query: str | int) -> Any:
    response = await client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def test_state_is_the_last_or_that_of_a_version(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await counted(gateway)
    for query, seq in (({}, 3), ({"seq": 3}, 3), ({"seq": 1}, 1), ({"seq": 0}, 0)):
        shown = await get(client, "/panels/p/state", **query)
        assert shown == {"panelId": "p", "seq": seq, "epoch": resident.panel.epoch, "state": {"n": seq}}


@pytest.mark.parametrize("seq", ["4", "-1", "x", "", "1.0", "٣", "9" * 17])
async def test_state_refuses_what_is_no_version(
    client: httpx.AsyncClient, gateway: Gateway, seq: str
) -> None:
    await counted(gateway)
    response = await client.get("/panels/p/state", params={"seq": seq})
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == "seq"


async def test_state_is_shown_when_what_it_shows_is_durable() -> None:
    gateway = Gateway(MemoryJournal(hold=True))
    async with make_client(gateway) as client:
        adding = asyncio.create_task(gateway.add("p"))
        await gateway.settle()
        gateway.journal.release(gateway.journal.position)
        gateway.submit(await adding, {"set": {"n": 1}})
        await gateway.settle()
        reading = asyncio.create_task(client.get("/panels/p/state"))
        await gateway.settle()
        assert not reading.done()
        gateway.journal.release(gateway.journal.position)
        assert (await reading).json()["state"] == {"n": 1}


async def test_history_is_told_in_pages_without_a_gap(client: httpx.AsyncClient, gateway: Gateway) -> None:
    await counted(gateway, 5)
    told: list[int] = []
    since: int | None = 0
    while since is not None:
        page = await get(client, "/panels/p/history", since=since, limit=2)
        told += [commit["seq"] for commit in page["commits"]]
        since = page["next"]
    assert told == [1, 2, 3, 4, 5]


async def test_history_counts_what_it_shows_and_not_what_changed(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large args that change little fill a page like anything else."""
    monkeypatch.setattr(histories, "PAGE_BYTES", 2_500)
    resident = await gateway.add("p", state={"n": 0})
    for number in range(4):
        await gateway.trigger(resident, {"set": {"n": number}, "unused": "x" * 1_000})
    page = await get(client, "/panels/p/history")
    assert ([commit["seq"] for commit in page["commits"]], page["next"]) == ([1, 2], 2)
    newest = await get(client, "/panels/p/keys/n/history")
    assert [commit["seq"] for commit in newest["commits"]] == [4, 3]
    monkeypatch.setattr(histories, "PAGE_BYTES", 1)
    page = await get(client, "/panels/p/history", since=3)
    assert ([commit["seq"] for commit in page["commits"]], page["next"]) == ([4], None)


async def test_history_says_what_each_commit_was(client: httpx.AsyncClient, gateway: Gateway) -> None:
    resident = await gateway.add("p")
    await gateway.trigger(resident, {"set": {"n": 1}, "emit": {"e": 2}})
    await client.put("/panels/p", json={"kind": "k", "initialState": {"m": 1}})
    ran, changed = (await get(client, "/panels/p/history"))["commits"]
    assert (ran["cause"], ran["tool"], ran["fuelConsumed"]) == ("trigger", "t", 7)
    assert ran["mutations"] == [{"op": "set", "key": "n", "value": 1}]
    assert [event["name"] for event in ran["events"]] == ["e"]
    assert (changed["cause"], changed["subject"], changed["events"]) == ("replace", None, [])
    assert {mutation["key"]: mutation["op"] for mutation in changed["mutations"]} == {
        "n": "delete",
        "m": "set",
    }


@pytest.mark.parametrize(
    ("subject", "access", "heard"),
    [("ada", ["read"], "ef"), ("bob", ["read"], "f"), ("bob", ["read", "manage"], "ef")],
)
async def test_history_shows_events_for_one_subject_to_it_and_to_who_may_manage_the_panel(
    guarded: httpx.AsyncClient, gateway: Gateway, subject: str, access: list[str], heard: str
) -> None:
    resident = await gateway.add("p")
    await gateway.trigger(resident, {"emit": {"e": 1, "f": 2}, "to": {"e": "ada"}})
    allowed = grant("p", *access, sub=subject)
    (commit,) = (await guarded.get("/panels/p/history", headers=allowed)).json()["commits"]
    assert "".join(event["name"] for event in commit["events"]) == heard


@pytest.mark.parametrize(
    ("subject", "access", "shown"),
    [("ada", ["read"], True), ("bob", ["read"], False), ("bob", ["read", "manage"], True)],
)
async def test_history_shows_no_event_for_somebody_else_as_the_arguments_of_a_listener(
    guarded: httpx.AsyncClient, gateway: Gateway, subject: str, access: list[str], shown: bool
) -> None:
    def respond(call: Call) -> Outcome:
        return follow(call) if call.tool == "t" else completed(None, setting("seen", 1))

    gateway.respond = respond
    listens = {"name": "l", "handler": "0", "trigger": {"type": "event", "pattern": "e"}}
    resident = await gateway.add("p", tools=[{"name": "t", "handler": "0"}, listens])
    await gateway.trigger(resident, {"emit": {"e": "secret"}, "to": {"e": "ada"}})
    await gateway.settle()
    allowed = grant("p", *access, sub=subject)
    for path in ("/panels/p/history", "/panels/p/keys/seen/history"):
        commits = (await guarded.get(path, headers=allowed)).json()["commits"]
        (listened,) = [commit for commit in commits if commit["tool"] == "l"]
        assert (listened["args"] or {}).get("event", {}).get("payload") == ("secret" if shown else None)
    # whoever writes such arguments by hand hides nothing
    by_hand = {"type": "event", "event": {"to": "ada"}, "set": {"n": 1}}
    await gateway.trigger(resident, by_hand)
    commits = (await guarded.get("/panels/p/history", headers=allowed)).json()["commits"]
    assert commits[-1]["args"] == by_hand


async def test_history_says_whom_a_handler_reached(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.respond = act
    resident = await gateway.add("p")
    gateway.submit(resident, asking(set={"n": 1}, then={"set": {"n": 2}}))
    await gateway.settle()
    reached = Exchange(1, "api.example:443", "", 0, 0, 3, ("TOKEN",), "denied")
    gateway.kernel.suspensions.answered(
        only_suspension(resident), 1, ok=True, value=b"1", exchanges=(reached,)
    )
    await gateway.settle()
    first, second = (await get(client, "/panels/p/history"))["commits"]
    assert "egress" not in first
    assert second["egress"] == [
        {
            "call": 1,
            "host": "api.example:443",
            "address": None,
            "bytesSent": 0,
            "bytesReceived": 0,
            "ms": 3,
            "secrets": ["TOKEN"],
            "verdict": "denied",
        }
    ]


async def test_history_is_json_where_a_record_has_no_arguments(
    client: httpx.AsyncClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that waited is given none when it goes on."""
    resident = await counted(gateway, commits=1)
    (record,) = await gateway.kernel.histories.of_key(resident, "n", limit=1)
    assert isinstance(record, Ran)

    async def found(*_: object, **__: object) -> list[Ran]:
        return [msgspec.structs.replace(record, args=b"")]

    monkeypatch.setattr(gateway.kernel.histories, "of_key", found)
    (commit,) = (await get(client, "/panels/p/keys/n/history"))["commits"]
    assert commit["args"] is None


async def test_history_refuses_a_version_yet_to_come_and_a_bad_limit(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    await counted(gateway)
    for query, path in (({"since": "4"}, "since"), ({"limit": "0"}, "limit"), ({"limit": "1001"}, "limit")):
        response = await client.get("/panels/p/history", params=query)
        assert assert_error(response, Code.INVALID_REQUEST)["path"] == path


async def test_history_that_was_trimmed_is_gone_and_not_cut_short() -> None:
    gateway = Gateway(MemoryJournal(history_commits=1))
    async with make_client(gateway) as client:
        await counted(gateway, 5)
        assert_error(await client.get("/panels/p/history"), Code.HISTORY_GONE)
        assert_error(await client.get("/panels/p/state", params={"seq": "0"}), Code.HISTORY_GONE)
        assert_error(await client.post("/panels/p/revert", json={"seq": 0}), Code.HISTORY_GONE)


async def test_key_history_names_the_triggers_that_gave_a_key_its_values(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await gateway.add("p", state={})
    await gateway.trigger(resident, {"set": {"a/b": 1}})
    await gateway.trigger(resident, {"set": {"other": 1}}, tool="u")
    await gateway.trigger(resident, {"delete": ["a/b"]}, tool="u")
    shown = await get(client, "/panels/p/keys/a/b/history")
    assert [(c["seq"], c["tool"], c["op"], c["value"]) for c in shown["commits"]] == [
        (3, "u", "delete", None),
        (1, "t", "set", 1),
    ]
    assert_error(await client.get(f"/panels/p/keys/{'k' * 257}/history"), Code.INVALID_REQUEST)


async def test_revert_makes_an_old_state_the_newest_version(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    _, socket = gateway.connect(resident)
    response = await client.post("/panels/p/revert", json={"seq": 1})
    assert response.json() == {"id": "p", "seq": 4, "revertedTo": 1}
    assert socket.words == ["CONNECTED 3", "PATCH 4"]
    assert (await get(client, "/panels/p/state"))["state"] == {"n": 1}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b'{"seq":"1"}', b'{"seq":9}', b'{"seq":-1}', b'{"seq":1,"x":1}']
)
async def test_revert_refuses_a_body(client: httpx.AsyncClient, gateway: Gateway, body: bytes) -> None:
    await counted(gateway)
    response = await client.post("/panels/p/revert", content=body)
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == "seq"


async def test_replay_says_whether_the_same_comes_of_it_again(
    client: httpx.AsyncClient, gateway: Gateway
) -> None:
    resident = await counted(gateway)
    response = await client.post("/panels/p/replay", json={"seq": 2})
    assert response.status_code == 200, response.text
    shown = response.json()
    ended = {
        "fuelConsumed": 7,
        "outcome": "completed",
        "mutations": [{"op": "set", "key": "n", "value": 2}],
        "events": [],
        "viewCommands": [],
        "returnValue": {"set": {"n": 2}},
        "log": [],
    }
    digest = resident.panel.tools["t"].digest.hex()
    assert shown == {
        "panelId": "p", "seq": 2, "tool": "t", "digest": digest, "equal": True, "differences": [],
        "recorded": ended, "replayed": ended,
    }  # fmt: skip
    gateway.respond = lambda call: Failed(Usage(fuel=9), Reason.HANDLER_ERROR, "no")
    shown = (await client.post("/panels/p/replay", json={"seq": 2})).json()
    assert (shown["equal"], shown["differences"]) == (False, ["outcome"])
    assert shown["replayed"] == {
        "fuelConsumed": 9, "outcome": "failed", "reason": "HANDLER_ERROR", "message": "no", "log": []
    }  # fmt: skip
    assert (await get(client, "/panels/p/state"))["seq"] == 3


async def test_replay_shows_what_a_handler_waited_for(client: httpx.AsyncClient, gateway: Gateway) -> None:
    gateway.respond = act
    resident = await gateway.add("p", state={})
    gateway.submit(resident, asking(set={"n": 1}))
    await gateway.settle()
    shown = (await client.post("/panels/p/replay", json={"seq": 1})).json()
    assert shown["equal"]
    assert shown["replayed"]["outcome"] == "waits"
    assert shown["replayed"]["calls"] == [
        {"call": 1, "extension": "human", "method": "ask", "args": ["what?"]}
    ]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"seq":"1"}', b'{"seq":9}', b'{"seq":0}', b'{"seq":1,"x":1}'])
async def test_replay_refuses_a_body(client: httpx.AsyncClient, gateway: Gateway, body: bytes) -> None:
    await counted(gateway)
    response = await client.post("/panels/p/replay", content=body)
    assert assert_error(response, Code.INVALID_REQUEST)["path"] == "seq"


async def test_histories_need_read_and_revert_needs_manage(
    guarded: httpx.AsyncClient, gateway: Gateway
) -> None:
    await counted(gateway)
    reader, owner = grant("p", "read"), grant("p", "manage")
    for path in ("state", "history", "keys/n/history"):
        assert (await guarded.get(f"/panels/p/{path}", headers=reader)).status_code == 200
        assert_error(await guarded.get(f"/panels/p/{path}", headers=owner), Code.FORBIDDEN)
    assert_error(await guarded.post("/panels/p/revert", headers=reader, json={"seq": 1}), Code.FORBIDDEN)
    assert (await guarded.post("/panels/p/revert", headers=owner, json={"seq": 1})).status_code == 200
    assert_error(await guarded.post("/panels/p/replay", headers=reader, json={"seq": 1}), Code.FORBIDDEN)
    assert (await guarded.post("/panels/p/replay", headers=owner, json={"seq": 1})).status_code == 200
