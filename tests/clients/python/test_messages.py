"""What is a message, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_client.messages import (
    Answered,
    Connected,
    ErrorMessage,
    Event,
    EventMessage,
    Patch,
    Pong,
    Progress,
    ProtocolViolation,
    Refreshed,
    ResultMessage,
    TokenExpiring,
    Unknown,
    decode,
)

EVENT = {"name": "e", "payload": [1], "timestamp": 5}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"type": "CONNECTED", "seq": 1, "epoch": "e", "state": {}}, Connected(1, "e", False, {})),
        ({"type": "CONNECTED", "seq": 1, "epoch": "e", "recovered": True}, Connected(1, "e", True, None)),
        (
            {
                "type": "PATCH",
                "seq": 9,
                "firstSeq": 6,
                "more": True,
                "mutations": [{"op": "delete", "key": "a"}],
            },
            Patch(9, 5, True, [("a", False, None)]),
        ),
        ({"type": "PATCH", "seq": 9, "prevSeq": 2, "mutations": []}, Patch(9, 2, False, [])),
        (
            {"type": "EVENT", "event": EVENT, "seq": 2},
            EventMessage(Event("e", [1], 5, 2), 2, 1, False),
        ),
        ({"type": "RESULT", "seq": 0, "result": {"a": 1}}, ResultMessage("", 0, {"a": 1})),
        (
            {"type": "PROGRESS", "requestId": "r", "suspensionId": "s", "extension": "x", "method": "m"},
            Progress("r", "s", "x", "m"),
        ),
        ({"type": "ANSWERED", "requestId": "r"}, Answered("r")),
        ({"type": "TOKEN_EXPIRING", "expiresAt": 1}, TokenExpiring()),
        ({"type": "REFRESHED", "requestId": "r"}, Refreshed("r")),
        ({"type": "PONG"}, Pong()),
        (
            {"type": "ERROR", "code": "C", "message": "m", "retryAfterMs": 5.5},
            ErrorMessage("", "C", "m", None, 5),
        ),
        ({"type": "ERROR", "code": "C", "retryAfterMs": -1}, ErrorMessage("", "C", "", None, None)),
        ({"type": "NEWS"}, Unknown("NEWS")),
    ],
    ids=str,
)
def test_message_is_decoded(raw: dict[str, Any], message: object) -> None:
    assert decode(json.dumps(raw)) == message


@pytest.mark.parametrize(
    "frame",
    [
        b"{}",
        "",
        "[]",
        "{}",
        '{"type":1}',
        '{"type":"CONNECTED","seq":0,"epoch":"","state":{}}',
        '{"type":"CONNECTED","seq":0,"epoch":"e","state":[]}',
        '{"type":"CONNECTED","seq":0,"epoch":"e","state":{},"recovered":true}',
        '{"type":"PATCH","seq":10000000000000000,"mutations":[]}',
        '{"type":"PATCH","seq":1.5,"mutations":[]}',
        '{"type":"PATCH","seq":1,"prevSeq":1,"mutations":[]}',
        '{"type":"PATCH","seq":1,"mutations":[{"op":"set","key":"a"}]}',
        '{"type":"PATCH","seq":1,"mutations":[{"op":"delete","key":1}]}',
        '{"type":"EVENT","seq":1,"event":null}',
        '{"type":"RESULT","seq":1,"result":NaN}',
    ],
)
def test_what_is_no_message_is_refused(frame: str | bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(frame)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "seq", "event", "mutations", "op", "key", "state"]), inner
            )
        ),
    )
)
def test_nothing_but_a_violation_is_raised(value: Any) -> None:
    for raw in (
        value,
        {"type": "PATCH", "seq": value, "mutations": value},
        {"type": "EVENT", "event": value},
    ):
        try:
            decode(json.dumps(raw))
        except ProtocolViolation:
            pass
