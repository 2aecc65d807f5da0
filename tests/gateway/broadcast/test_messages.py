from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast import messages
from panels_gateway.broadcast.messages import AnswerQuestion, MessageError, Ping, Subscribe, Trigger
from panels_shared.errors import Code
from panels_shared.outcome import Completed, Failed, Reason, Usage


def refusal(text: str | bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        messages.decode(text)
    return caught.value


def test_decode_reads_each_message() -> None:
    trigger = messages.decode('{"type":"TRIGGER","tool":"inc","args":{"n":1},"requestId":"r"}')
    assert isinstance(trigger, Trigger)
    assert (trigger.tool, bytes(trigger.args), trigger.requestId) == ("inc", b'{"n":1}', "r")
    assert messages.decode('{"type":"PING"}') == Ping()
    assert messages.decode('{"topics":["a"],"type":"SUBSCRIBE"}') == Subscribe(["a"])


def test_decode_reads_an_answer_and_any_value_in_it() -> None:
    message = messages.decode(
        '{"type":"ANSWER","suspensionId":"00ab","call":3,"value":{"a":[1]},"requestId":"r"}'
    )
    assert isinstance(message, AnswerQuestion)
    assert (message.suspensionId, message.call, message.requestId) == ("00ab", 3, "r")
    assert bytes(message.value) == b'{"a":[1]}'
    for text in (
        '{"type":"ANSWER","suspensionId":"","value":null}',
        '{"type":"ANSWER","value":null,"suspensionId":"","call":null}',
    ):
        message = messages.decode(text)
        assert isinstance(message, AnswerQuestion)
        assert (bytes(message.value), message.call) == (b"null", None)


def test_answered_names_the_request_and_the_suspension() -> None:
    assert json.loads(messages.answered("r", "00ab")) == {
        "type": "ANSWERED",
        "requestId": "r",
        "suspensionId": "00ab",
    }
    assert json.loads(messages.answered(None, "00ab")) == {"type": "ANSWERED", "suspensionId": "00ab"}


def test_decode_takes_a_trigger_without_args_as_null() -> None:
    trigger = messages.decode('{"type":"TRIGGER","tool":"inc"}')
    assert isinstance(trigger, Trigger)
    assert bytes(trigger.args) == b"null"
    assert trigger.requestId is msgspec.UNSET


def test_decode_ignores_fields_it_does_not_know() -> None:
    assert messages.decode('{"type":"PING","extra":[1]}') == Ping()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "null",
        '"TRIGGER"',
        "{}",
        '{"type":5}',
        '{"type":"TRIGGER"}',
        '{"type":"TRIGGER","tool":5}',
        '{"type":"TRIGGER","tool":"a","requestId":5}',
        '{"type":"TRIGGER","tool":"a","requestId":null}',
        '{"type":"SUBSCRIBE"}',
        '{"type":"SUBSCRIBE","topics":"state"}',
        '{"type":"SUBSCRIBE","topics":[1]}',
        '{"type":"TRIGGER","tool":"a","args":NaN}',
        '{"type":"TRIGGER","tool":"a","args":Infinity}',
        '{"type":"TRIGGER","tool":"a","args":1e400}',
        '{"type":"TRIGGER","tool":"a","args":' + "1" * 400 + "}",
        '{"type":"TRIGGER","tool":"a","args":"\\ud800"}',
        '{"type":"TRIGGER","tool":"a","args":' + "[" * 65 + "]" * 65 + "}",
        '{"type":"TRIGGER","tool":"a","args":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"TRIGGER","tool":"' + "a" * 129 + '"}',
        '{"type":"TRIGGER","tool":"a","requestId":"' + "r" * 257 + '"}',
        '{"type":"SUBSCRIBE","topics":["' + "t" * 301 + '"]}',
        '{"type":"TRIGGER","tool":"a","args":{"a":1,}}',
        '{"type":"PING"} trailing',
    ],
)
def test_decode_refuses_with_parse_error(text: str) -> None:
    assert refusal(text).code is Code.PARSE_ERROR


@pytest.mark.parametrize("kind", ["", "trigger", "CONNECTED", "x" * 10_000])
def test_decode_names_an_unknown_type(kind: str) -> None:
    error = refusal(json.dumps({"type": kind, "requestId": "r"}))
    assert error.code is Code.UNKNOWN_MESSAGE
    assert error.request_id == "r"
    assert len(error.message) < 300


def test_decode_keeps_the_request_id_of_a_bad_message() -> None:
    assert refusal('{"type":"TRIGGER","requestId":"r"}').request_id == "r"
    assert refusal('{"type":"TRIGGER","tool":"t","args":1e999,"requestId":"r"}').request_id == "r"


def test_decode_takes_the_nesting_of_64_that_it_promises() -> None:
    messages.decode('{"type":"TRIGGER","tool":"a","args":' + "[" * 64 + "]" * 64 + "}")


def test_decode_keeps_duplicate_keys_of_args_for_the_guest() -> None:
    trigger = messages.decode('{"type":"TRIGGER","tool":"a","args":{"x":1,"x":2}}')
    assert isinstance(trigger, Trigger)
    assert json.loads(bytes(trigger.args)) == {"x": 2}


#: Values that no field takes, as they may be written: not JSON, not within our bounds, not Unicode.
BROKEN = ["NaN", "1e999", "1" * 400, '"\\ud800"', "[" * 65 + "]" * 65, "[" * 3_000 + "]" * 3_000, '{"a":1,}',
"tru",
          '"\\q"', "01", '{"a" 1}', "[1 2]", '"\x01"']  # fmt: skip
#: Values of the wrong type for each field, and strings that are too long.
WRONG = {
    "type": ["5", "null", "[]", "{}", "true"],
    "tool": ["5", "null", "[]", "{}", "true", json.dumps("t" * 129)],
    "requestId": ["5", "null", "[]", "{}", "true", json.dumps("r" * 257)],
    "topics": [
        "5",
        "null",
        '"state"',
        "{}",
        "[1]",
        '["a",null]',
        json.dumps(["t" * 301]),
        json.dumps(["t"] * 257),
    ],
    "args": [],
    "suspensionId": ["5", "null", "[]", "{}", "true", json.dumps("s" * 65)],
    "call": ['"1"', "[]", "{}", "true", "-1", "1.5", "1e300", str(2**31)],
    "value": [],
}
VALID = [
    {"type": '"TRIGGER"', "tool": '"inc"', "args": '{"n":[1,"}"]}', "requestId": '"r-1"'},
    {"type": '"SUBSCRIBE"', "topics": '["state"]', "requestId": '"r-1"'},
    {"type": '"UNSUBSCRIBE"', "topics": "[]", "requestId": '"r-1"'},
    {"type": '"ANSWER"', "suspensionId": '"0a"', "value": "true", "call": "1", "requestId": '"r-1"'},
    {"type": '"PING"', "requestId": '"r-1"'},
]
IGNORED = [("PING", "requestId"), ("SUBSCRIBE", "requestId"), ("UNSUBSCRIBE", "requestId")]
SPACES = st.sampled_from(["", " ", "\n\t "])


@given(st.data())
def test_error_of_a_message_with_one_wrong_field_names_it_and_echoes_the_request_id(
    data: st.DataObject,
) -> None:
    valid = data.draw(st.sampled_from(VALID))
    kind = json.loads(valid["type"])
    field = data.draw(st.sampled_from([name for name in sorted(valid) if (kind, name) not in IGNORED]))
    values = WRONG[field] if data.draw(st.booleans()) else BROKEN
    message = {**valid, field: data.draw(st.sampled_from(values or BROKEN))}
    names = data.draw(st.permutations(list(message)))
    space = data.draw(SPACES)
    text = (
        "{"
        + ",".join(f'{space}"{name}"{space}:{space}{message[name]}{space}' for name in names)
        + "}"
        + space
    )

    error = refusal(text.encode() if data.draw(st.booleans()) else text)

    assert error.code is Code.PARSE_ERROR
    assert error.message.startswith(f"{field}: expected"), text[:200]
    assert error.request_id == (None if field == "requestId" else "r-1")
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("valid", "field"),
    [(v, f) for v in VALID for f in ("type", "tool", "topics", "suspensionId", "value") if f in v],
)
def test_error_of_a_message_without_a_field_names_it_and_echoes_the_request_id(
    valid: dict[str, str], field: str
) -> None:
    rest = {name: value for name, value in valid.items() if name != field}
    error = refusal("{" + ",".join(f'"{name}":{value}' for name, value in rest.items()) + "}")
    assert error.message.startswith(f"{field}: expected")
    assert error.message.endswith("got none")
    assert error.request_id == "r-1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"TRIGGER","tool":"a","requestId":5}', "requestId: expected a string, got a number"),
        ('{"type":"TRIGGER","args":{}}', "tool: expected a string, got none"),
        ('{"type":"TRIGGER","tool":"a","args":NaN}', "args: expected JSON"),
        ('{"type":"SUBSCRIBE","topics":["a",1]}', "topics: expected a string, got a number at index 1"),
        ('{"type":"TRIGGER","tool":"a"} x', "expected JSON"),
        ('{"type":"TRIGGER","tool":"a",}', "expected JSON"),
        ('{"type":"TRIGGER","tool":"a","x":NaN}', "expected JSON"),
        ('{"type":"TRIGGER" "tool":"a"}', "type: expected JSON"),
        ('{"type":"TRIGGER","tool":"a"', "expected JSON"),
        ("[1]", "expected a JSON object with a type, got an array"),
        (b'{"type":"PING\xff"}', "expected UTF-8"),
    ],
)
def test_error_says_what_was_expected(text: str | bytes, message: str) -> None:
    assert refusal(text).message.startswith(message)


def test_error_echoes_no_request_id_that_could_not_be_recognized() -> None:
    """Half an id names no request of the client."""
    assert refusal('{"type":"NOPE","requestId":"' + "r" * 257 + '"}').request_id is None


@pytest.mark.parametrize(
    "value", ["[1," * 300_000, "[]," * 300_000, '"' + '\\"' * 300_000, '["' + "a" * 900_000]
)
def test_explaining_a_large_frame_is_bounded(value: str) -> None:
    error = refusal('{"type":"TRIGGER","tool":"a","requestId":"r","args":' + value + "}")
    assert error.code is Code.PARSE_ERROR


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("latin-1"))))
def test_decode_raises_only_message_errors(text: str) -> None:
    try:
        messages.decode(text)
    except MessageError as exc:
        assert exc.code in (Code.PARSE_ERROR, Code.UNKNOWN_MESSAGE)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.text(st.characters(codec="utf-8"), max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["type", "tool", "args", "requestId", "topics", "x"]), json_values))
def test_decode_takes_or_refuses_any_object(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    try:
        message = messages.decode(text)
    except MessageError:
        return
    assert type(message).__struct_config__.tag == value["type"]


def test_result_has_every_field_of_the_protocol() -> None:
    outcome = Completed(
        Usage(10, 20, 30, 40, 5, True),
        b'{"a":1}',
        b'[{"op":"set","key":"k","value":1}]',
        (b'{"name":"n","payload":null,"timestamp":5}',),
        b'[{"viewId":"v","command":"focus","params":null}]',
    )
    message = json.loads(messages.result("r-1", outcome, 7, 100, 200))
    assert message["requestId"] == "r-1"
    assert message["seq"] == 7
    result = message["result"]
    assert result["status"] == "success"
    assert result["returnValue"] == {"a": 1}
    assert result["stateMutations"] == [{"op": "set", "key": "k", "value": 1}]
    assert result["events"] == [{"name": "n", "payload": None, "timestamp": 5}]
    assert result["viewCommands"] == [{"viewId": "v", "command": "focus", "params": None}]
    assert result["metrics"] == {
        "executionTimeUs": 20,
        "memoryUsedBytes": 30,
        "memoryPeakBytes": 40,
        "hostCalls": 5,
        "cacheHit": True,
        "fuelConsumed": 10,
        "queueUs": 100,
        "totalUs": 200,
    }


def test_result_without_request_id_has_none() -> None:
    assert "requestId" not in json.loads(messages.result(None, Completed(Usage()), 0, 0, 0))


def test_error_carries_request_id_details_and_retry() -> None:
    message = json.loads(messages.error(Code.OVERLOADED, "full", "r", {"retryAfterMs": 5}))
    assert message == {
        "type": "ERROR",
        "code": "OVERLOADED",
        "message": "full",
        "requestId": "r",
        "details": {"retryAfterMs": 5},
        "retryAfterMs": 5,
    }


def test_failure_details_survive_a_worker_that_lies() -> None:
    failed = Failed(Usage(fuel=-1), Reason.TRAP, "m", 3, 4, b"\xff not json")
    details = messages.failure_details(failed)
    assert details["reason"] == "TRAP"
    assert details["location"] == {"line": 3, "column": 4}
    assert "fuelConsumed" not in details


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"handlerCode": "A", "handlerDetails": [1]}, {"handlerCode": "A", "handlerDetails": [1]}),
        ({"handlerCode": "two words", "handlerDetails": [1]}, {}),
        ({"handlerCode": {"a": 1}}, {}),
        ({"handlerDetails": 1}, {}),
        ({"handlerCode": "A", "handlerDetails": "x" * 5_000}, {"handlerCode": "A"}),
        ({"handlerCode": "A", "reason": "MINE", "fuelConsumed": "much"}, {"handlerCode": "A"}),
    ],
)
def test_failure_details_have_no_code_that_a_handler_cannot_have_given(
    told: dict[str, object], kept: dict[str, object]
) -> None:
    failed = Failed(Usage(fuel=5), Reason.HANDLER_ERROR, "m", details=json.dumps(told).encode())
    details = messages.failure_details(failed)
    assert {name: details[name] for name in details if name.startswith("handler")} == kept
    assert (details["reason"], details["fuelConsumed"]) == ("HANDLER_ERROR", 5)


@given(st.dictionaries(st.sampled_from(["handlerCode", "handlerDetails", "stack", "reason"]), json_values))
def test_hostile_failure_details_never_break_the_message(told: dict[str, object]) -> None:
    failed = Failed(Usage(), Reason.HANDLER_ERROR, "m", details=json.dumps(told).encode())
    message = json.loads(messages.error(Code.EXECUTION_ERROR, "m", "r", messages.failure_details(failed)))
    assert message["details"]["reason"] == "HANDLER_ERROR"
    assert len(json.dumps(message["details"].get("handlerDetails"), ensure_ascii=False).encode()) <= 2 * 4_096


@pytest.mark.parametrize("seq", [0, 1, 2**63 - 1])
def test_trigger_may_expect_a_version(seq: int) -> None:
    message = messages.decode(json.dumps({"type": "TRIGGER", "tool": "t", "expectedSeq": seq}))
    assert isinstance(message, messages.Trigger)
    assert message.expectedSeq == seq


@pytest.mark.parametrize(
    ("seq", "problem"),
    [
        ("1", "expected a number, got a string"),
        (True, "expected a number, got a boolean"),
        (-1, "expected a version, a whole number from 0, got another"),
        (1.5, "expected a version, a whole number from 0, got another"),
        (2**63, "expected a version, a whole number from 0, got another"),
    ],
)
def test_trigger_that_expects_what_is_no_version_is_refused(seq: object, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        messages.decode(json.dumps({"type": "TRIGGER", "tool": "t", "requestId": "r", "expectedSeq": seq}))
    assert (caught.value.message, caught.value.request_id) == (f"expectedSeq: {problem}", "r")
