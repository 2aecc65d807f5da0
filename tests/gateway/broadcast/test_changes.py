"""Commits as messages of the State Protocol: whoever applies them has the panel's state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast.changes import (
    DATA_HEAD,
    DATA_TAIL,
    commit_messages,
    control_event,
    one_line,
    snapshot_messages,
)
from panels_gateway.broadcast.events import Event
from panels_gateway.broadcast.topics import Topics, parse_topics

KEYS = st.text(max_size=4)
VALUES = st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=4), st.lists, max_leaves=4)
STATES = st.dictionaries(KEYS, VALUES, max_size=5)
COMMITS = st.lists(st.dictionaries(KEYS, VALUES | st.just(...), max_size=4), max_size=6)


def mutations(changes: dict[str, Any]) -> bytes:
    return json.dumps(
        [
            {"op": "delete", "key": key} if value is ... else {"op": "set", "key": key, "value": value}
            for key, value in changes.items()
        ]
    ).encode()


def apply(state: dict[str, Any], message: dict[str, Any]) -> None:
    """What the State Protocol says that a message does."""
    if message.get("type") != "state":
        return
    if message["headers"]["operation"] == "delete":
        state.pop(message["key"], None)
    else:
        state[message["key"]] = message["value"]


@given(STATES, COMMITS)
def test_snapshot_and_commits_make_the_state(first: dict[str, Any], commits: list[dict[str, Any]]) -> None:
    stored = {key: json.dumps(value, indent=1).encode() for key, value in first.items()}
    messages = list(snapshot_messages(Topics(), 7, stored, "e_7"))
    for seq, changes in enumerate(commits, 8):
        messages += commit_messages(Topics(), seq, seq, mutations(changes), [])
    state: dict[str, Any] = {}
    for message in messages:
        apply(state, json.loads(message))
    expected = dict(first)
    for changes in commits:
        for key, value in changes.items():
            if value is ...:
                expected.pop(key, None)
            else:
                expected[key] = value
    assert state == expected


def test_commit_is_one_message_for_each_key_and_event() -> None:
    events: list[Event] = [("e", b'{"name":"e","payload":1}', None), ("f", b'{"name":"f"}', None)]
    told = [
        json.loads(message)
        for message in commit_messages(
            Topics(), 12, 1_700_000_000_123, mutations({"a": [1], "b": ...}), events
        )
    ]
    common = {"txid": "12", "timestamp": "2023-11-14T22:13:20.123Z"}
    assert told == [
        {"type": "state", "key": "a", "value": [1], "headers": {"operation": "update", **common}},
        {"type": "state", "key": "b", "headers": {"operation": "delete", **common}},
        {
            "type": "event",
            "key": "12.0",
            "value": {"name": "e", "payload": 1},
            "headers": {"operation": "insert", **common},
        },
        {
            "type": "event",
            "key": "12.1",
            "value": {"name": "f"},
            "headers": {"operation": "insert", **common},
        },
    ]


def test_topics_leave_out_what_they_do_not_name() -> None:
    topics = parse_topics("state:a%2A,event:f")
    told = commit_messages(
        topics,
        1,
        0,
        mutations({"ab": 1, "b": 2}),
        [("e", b'{"name":"e"}', None), ("f", b'{"name":"f"}', None)],
    )
    assert [json.loads(message)["key"] for message in told] == ["ab", "1.1"]
    shown = [json.loads(message) for message in snapshot_messages(topics, 1, {"ab": b"1", "b": b"2"}, "o")]
    assert [message.get("key") for message in shown] == [None, "ab", None]
    assert shown[0]["headers"] == {"control": "snapshot-start", "offset": "o"}
    assert shown[2]["headers"] == {"control": "snapshot-end", "offset": "o"}


@given(VALUES, st.sampled_from(["\n", "\r\n", "\r", " "]))
def test_event_carries_json_with_line_breaks_in_one_line(value: Any, space: str) -> None:
    body = json.dumps([value, {"text": "a\nb\rc"}], indent=1).replace("\n", space).encode()
    event = b"".join((DATA_HEAD, one_line(memoryview(body)), DATA_TAIL))
    name, data, *rest = event.decode().splitlines()
    assert (name, rest) == ("event: data", [""])
    assert json.loads(data.removeprefix("data: ")) == json.loads(body)


def test_control_event_says_how_far_its_reader_is() -> None:
    name, data, _ = control_event("e_1", "5", up_to_date=True).decode().split("\n", 2)
    assert name == "event: control"
    assert json.loads(data.removeprefix("data: ")) == {
        "streamNextOffset": "e_1",
        "streamCursor": "5",
        "upToDate": True,
    }
    assert b"upToDate" not in control_event("e_1", "5", up_to_date=False)


@pytest.mark.parametrize(("subject", "heard"), [("ada", ["1.0", "1.1"]), ("bob", ["1.1"]), (None, ["1.1"])])
def test_event_for_one_subject_leaves_its_number_to_it(subject: str | None, heard: list[str]) -> None:
    events: list[Event] = [("e", b'{"name":"e"}', "ada"), ("f", b'{"name":"f"}', None)]
    told = commit_messages(Topics(), 1, 0, b"[]", events, subject)
    assert [json.loads(message)["key"] for message in told] == heard
