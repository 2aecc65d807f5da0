"""Resuming and topics at a real gateway, where the vectors do not reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.resume_client import ResumingClient
from tests.support.resume_runner import APPLY, Json, heard_until_pong
from tests.support.system import System

TOOLS = [{"name": "apply", "handler": APPLY}]


@contextmanager
def socket(system: System, panel: str, query: str = "") -> Iterator[ClientConnection]:
    with connect(
        f"{system.socket_url(panel)}?{query}",
        additional_headers={"Authorization": f"Bearer {system.token()}"},
        proxy=None,
    ) as connection:
        yield connection


def make(system: System, panel: str) -> None:
    definition = {"id": panel, "kind": "test", "tools": TOOLS}
    assert system.http.post("/panels", json=definition).status_code == 201


def apply(system: System, panel: str, key: str, value: object) -> None:
    args = {"set": {key: value}, "delete": [], "emit": []}
    assert system.http.post(f"/panels/{panel}/trigger/apply", json={"args": args}).status_code == 200


def subscribe(
    connection: ClientConnection, kind: str, topics: list[str], request_id: str | None = None
) -> list[Json]:
    message: Json = {"type": kind, "topics": topics}
    if request_id is not None:
        message["requestId"] = request_id
    connection.send(json.dumps(message))
    return heard_until_pong(connection)


def test_subscribe_and_unsubscribe_are_answered_when_they_carry_a_request_id(system: System) -> None:
    make(system, "subscribed")
    apply(system, "subscribed", "x", 1)
    with socket(system, "subscribed") as connection:
        heard_until_pong(connection)
        assert subscribe(connection, "UNSUBSCRIBE", ["events"]) == []
        assert subscribe(connection, "UNSUBSCRIBE", ["state"], "a") == [
            {"type": "SUBSCRIBED", "requestId": "a", "topics": [], "seq": 1}
        ]
        assert subscribe(connection, "SUBSCRIBE", ["state:x", "state:a"], "b") == [
            {"type": "SUBSCRIBED", "requestId": "b", "topics": ["state:a", "state:x"], "seq": 1}
        ]


def test_refused_subscribe_names_its_request_id(system: System) -> None:
    make(system, "subscribed-too-often")
    with socket(system, "subscribed-too-often") as connection:
        heard_until_pong(connection)
        subscribe(connection, "SUBSCRIBE", [f"state:{number}" for number in range(250)])
        (refused,) = subscribe(connection, "SUBSCRIBE", [f"state:b{number}" for number in range(10)], "much")
        assert (refused["type"], refused["code"], refused["requestId"]) == ("ERROR", "PARSE_ERROR", "much")


def test_client_that_changes_its_topics_again_and_again_finds_no_gap(system: System) -> None:
    make(system, "fickle")
    with socket(system, "fickle") as connection:
        (greeting,) = heard_until_pong(connection)
        client = ResumingClient(position=0, state=greeting["state"])
        changes = [
            ("UNSUBSCRIBE", ["state"]),
            ("SUBSCRIBE", ["state:x"]),
            ("SUBSCRIBE", ["state:y"]),
            ("UNSUBSCRIBE", ["state:x"]),
            ("SUBSCRIBE", ["state"]),
            ("UNSUBSCRIBE", ["events"]),
        ]
        for number, (kind, topics) in enumerate(changes):
            for key in "xyz":
                apply(system, "fickle", key, [number, key])
            for message in subscribe(connection, kind, topics, str(number)):
                client.hear(message)
        apply(system, "fickle", "z", "last")
        for message in heard_until_pong(connection):
            client.hear(message)
    assert client.position == system.seq("fickle") == 3 * len(changes) + 1
    assert client.state["z"] == "last"


@pytest.mark.parametrize(
    "query",
    ["since=", "since=-1", "since=1.0", "since=x", "since=None", "since=%D9%A1", "since=12345678901234567"]
    + ["since=1&since=1", "epoch=a&epoch=a&since=1", "topics=a&topics=b", f"since=1&epoch={'e' * 65}"]
    + [f"topics={'t' * 301}", "topics=" + ",".join(map(str, range(257)))],
)
def test_malformed_resume_is_refused_before_the_upgrade(system: System, query: str) -> None:
    if system.http.get("/panels/malformed").status_code == 404:
        make(system, "malformed")
    with pytest.raises(InvalidStatus) as refused, socket(system, "malformed", query):
        pass
    assert refused.value.response.status_code == 400
    error = json.loads(refused.value.response.body or b"")["error"]
    assert error["code"] == "INVALID_REQUEST"
    assert error["details"]["path"] in query
