"""The wire decoder: vectors for other languages, examples, and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared import limits, wire
from panels_shared import messages as m
from panels_shared.errors import WireError
from panels_shared.outcome import Completed, ExtensionCall, Failed, LogLine, Reason, Suspended, Usage

VECTORS = Path(__file__).with_name("wire_vectors.json")

USAGE = Usage(10, 20, 30, 40, 5, True)
EXAMPLES: dict[str, list[Any]] = {
    "tool": [m.Tool(7, b"d" * 32, "wasm", "handle", "increment", (1, 2, 3, 4, 5, 6, 7), ("state:read:*",))],
    "snapshot": [m.Snapshot(1, 2, {"count": b"1", "ü": b'"x"'})],
    "delta": [m.Delta(1, 3, 2, -1, {"count": b"2", "gone": None})],
    "job": [m.Job(9, 1, 2, 0, -1, 7, b'{"by":1}', b"{}", 1700000000000.0, 2**64 - 1)],
    "revoke, forget, drain": [m.Revoke(1, 2), m.Forget(1, (7, 8)), m.Drain()],
    "welcome": [m.Welcome(b"s" * 16, 500)],
    "prepare": [m.Prepare(b"d" * 32, "javascript", "default", b"return 1")],
    "abandon": [m.Abandon(b"d" * 32)],
    "replace": [m.Replace(b"w" * 16)],
    "resume": [
        m.Resume(
            10,
            1,
            2,
            1,
            0,
            7,
            b'{"sub":"ada"}',
            1700000000001.5,
            1,
            b"image",
            (
                m.Answered(1, True, b'{"status":200}'),
                m.Answered(2, False, b'{"code":"TIMEOUT","message":"m"}'),
            ),
        )
    ],
}
REPLIES: dict[str, list[Any]] = {
    "hello": [
        m.Hello(
            "sandbox",
            b"p" * 16,
            4711,
            {"panels": "0.1.0"},
            b"c" * 32,
            ("seccomp",),
            ("landlock (none here)",),
        ),
        m.Hello("pool", b"", 1, {}, labels=("gpu",), replaces=True),
    ],
    "heartbeat": [
        m.Heartbeat(b"w" * 16, 30_000_000),
        m.Heartbeat(b"p" * 16, 0, m.PoolReport(4, 3, 120_000_000, 6, 1, 1, 5_000)),
    ],
    "completed": [
        m.Result(
            9,
            Completed(
                USAGE,
                b"2",
                b'[{"op":"set","key":"count","value":2}]',
                (b'{"name":"n","payload":null,"timestamp":1}',),
                b"[]",
                (LogLine(1, "hello"),),
            ),
        )
    ],
    "failed": [m.Result(9, Failed(USAGE, Reason.TRAP, "unreachable", 1, 2, b"{}", ()))],
    "suspended": [
        m.Result(
            9,
            Suspended(
                USAGE,
                (
                    ExtensionCall(1, "http", "get", b'["https://example.org"]'),
                    ExtensionCall(2, "a", "b", b"[]"),
                ),
                b"image",
                b'[{"op":"delete","key":"count"}]',
                (b'{"name":"n","payload":null,"timestamp":1}',),
                b"[]",
                (LogLine(1, "waits"),),
            ),
        ),
        m.Result(10, Suspended(USAGE, (), b"")),
        m.Result(11, Failed(USAGE, Reason.RESUME_FAILED, "expected another image")),
    ],
    "missing": [m.Missing(9, "replica")],
    "prepared": [
        m.Prepared(b"d" * 32, None),
        m.Prepared(b"e" * 32, m.Refusal("syntax", "expected ;", 1, 5), 250),
    ],
    "exited, goodbye": [m.Exited(b"w" * 16), m.Goodbye(True)],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_decode_to_worker_undoes_encode(name: str) -> None:
    assert wire.decode_to_worker(wire.encode(EXAMPLES[name])) == EXAMPLES[name]


@pytest.mark.parametrize("name", REPLIES)
def test_decode_to_gateway_undoes_encode(name: str) -> None:
    assert wire.decode_to_gateway(wire.encode(REPLIES[name])) == REPLIES[name]


def test_vectors_are_what_this_version_encodes() -> None:
    """The file is for implementations in other languages: to change it is to change the protocol."""
    vectors = json.loads(VECTORS.read_text())
    assert vectors["protocolVersion"] == wire.PROTOCOL_VERSION
    for direction, examples in (("toWorker", EXAMPLES), ("toGateway", REPLIES)):
        assert {name: wire.encode(messages).hex() for name, messages in examples.items()} == vectors[
            direction
        ]


def test_decode_ignores_fields_that_it_does_not_know() -> None:
    frame = msgpack.packb([wire.PROTOCOL_VERSION, [[6, 1, [7], "later"], [7, "later"]], "later"])
    assert wire.decode_to_worker(frame) == [m.Forget(1, (7,)), m.Drain()]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        msgpack.packb(None),
        msgpack.packb([]),
        msgpack.packb([1]),
        msgpack.packb([2, [[7]]]),
        msgpack.packb(["1", [[7]]]),
        msgpack.packb([True, [[7]]]),
        msgpack.packb([1, []]),
        msgpack.packb([1, [[7]] * (wire.MAX_MESSAGES + 1)]),
        msgpack.packb([1, [[99]]]),
        msgpack.packb([1, [["drain"]]]),
        msgpack.packb([1, [[4, 1, 2]]]),
        msgpack.packb([1, [[8, "text", 500]]]),
        msgpack.packb([1, [[7]]]) + b"\x00",
        b"\x92\x01\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5_000,
        msgpack.packb([1, [[2, 1, 2, {b"k": b"1"}]]]),
        msgpack.packb([1, [[2, 1, 2, {"k": "text"}]]]),
        msgpack.packb([1, [msgpack.ExtType(5, b"x")]]),
        msgpack.packb([1, [[3, 1, 2, 3, 4, {"k": 5}]]]),
    ],
)
def test_decode_refuses_a_bad_frame(frame: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_to_worker(frame)


@pytest.mark.parametrize("messages", [[], [[36, b"d"]], "nothing that this version knows"])
def test_frame_of_another_version_is_told_as_such_whatever_is_in_it(messages: object) -> None:
    frame = msgpack.packb([wire.PROTOCOL_VERSION + 1, messages])
    said = f"expected protocol version {wire.PROTOCOL_VERSION}, got {wire.PROTOCOL_VERSION + 1}"
    for decode in (wire.decode_to_worker, wire.decode_to_gateway, wire.open_to_gateway):
        with pytest.raises(WireError) as caught:
            decode(frame)
        assert str(caught.value) == said


def test_messages_are_split_into_frames_that_hold_them() -> None:
    messages = [m.Drain()] * (2 * wire.MAX_MESSAGES + 1)
    runs = list(wire.split(messages))
    assert [len(run) for run in runs] == [wire.MAX_MESSAGES, wire.MAX_MESSAGES, 1]
    assert [message for run in runs for message in wire.decode_to_worker(wire.encode(run))] == messages


def test_decode_refuses_a_frame_above_its_bound() -> None:
    with pytest.raises(WireError, match="at most"):
        wire.decode_to_worker(bytes(wire.MAX_FRAME_BYTES + 1))


def resume_of(**changes: Any) -> m.Resume:
    """The example, with some of its fields replaced."""
    example: m.Resume = EXAMPLES["resume"][0]
    return msgspec.structs.replace(example, **changes)


def suspended_of(**changes: Any) -> m.Result:
    """The example of an outcome, with some of its fields replaced."""
    return m.Result(9, msgspec.structs.replace(REPLIES["suspended"][0].outcome, **changes))


ANSWER = m.Answered(1, True, b"1")
CALL = ExtensionCall(1, "http", "get", b"[]")


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (resume_of(image=bytes(limits.MAX_IMAGE_BYTES)), resume_of(image=bytes(limits.MAX_IMAGE_BYTES + 1))),
        (
            resume_of(answers=(ANSWER,) * limits.MAX_OPEN_CALLS),
            resume_of(answers=(ANSWER,) * (limits.MAX_OPEN_CALLS + 1)),
        ),
        (
            resume_of(answers=(m.Answered(1, True, bytes(limits.MAX_ANSWER_BYTES)),)),
            resume_of(answers=(m.Answered(1, True, bytes(limits.MAX_ANSWER_BYTES + 1)),)),
        ),
        (resume_of(), resume_of(answers=())),
        (resume_of(), resume_of(answers=(m.Answered(0, True, b"1"),))),
        (
            resume_of(answers=(m.Answered(2**53 - 1, True, b"1"),)),
            resume_of(answers=(m.Answered(2**53, True, b""),)),
        ),
    ],
    ids=["image", "answers", "answer", "no answer", "call 0", "call beyond a double"],
)
def test_decode_to_worker_keeps_resume_within_its_bounds(within: m.Resume, beyond: m.Resume) -> None:
    assert wire.decode_to_worker(wire.encode([within])) == [within]
    with pytest.raises(WireError):
        wire.decode_to_worker(wire.encode([beyond]))


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (
            suspended_of(image=bytes(limits.MAX_IMAGE_BYTES)),
            suspended_of(image=bytes(limits.MAX_IMAGE_BYTES + 1)),
        ),
        (
            suspended_of(calls=(CALL,) * limits.MAX_CALLS),
            suspended_of(calls=(CALL,) * (limits.MAX_CALLS + 1)),
        ),
        (
            suspended_of(calls=(ExtensionCall(1, "x", "m", bytes(limits.MAX_CALL_ARGS_BYTES)),)),
            suspended_of(calls=(ExtensionCall(1, "x", "m", bytes(limits.MAX_CALL_ARGS_BYTES + 1)),)),
        ),
        (suspended_of(), suspended_of(calls=(ExtensionCall(1, "", "m", b"[]"),))),
        (
            suspended_of(calls=(ExtensionCall(1, "x", "m" * limits.MAX_EXTENSION_NAME_CHARS, b"[]"),)),
            suspended_of(calls=(ExtensionCall(1, "x", "m" * (limits.MAX_EXTENSION_NAME_CHARS + 1), b"[]"),)),
        ),
    ],
    ids=["image", "calls", "args", "no name", "name"],
)
def test_decode_to_gateway_keeps_a_suspension_within_its_bounds(within: m.Result, beyond: m.Result) -> None:
    assert wire.decode_to_gateway(wire.encode([within])) == [within]
    with pytest.raises(WireError):
        wire.decode_to_gateway(wire.encode([beyond]))


def test_decode_never_shows_payload_in_its_error() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode_to_gateway(msgpack.packb([1, [[34, "secret-canary", [1]]]]))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        [34, 1, [2, [1, 1, 1, 1, 1, False], "secret - at `$`", "m"]],
        [35, 1, "secret"],
        [32, "secret", b"", 1, {}],
        [32, "pool", b"", 1, {"secret": 5}],
        [36, b"", ["secret"]],
    ],
    ids=["reason", "missing", "role", "version", "refusal"],
)
def test_decode_never_shows_a_word_that_it_does_not_know(fields: list[object]) -> None:
    with pytest.raises(WireError) as refused:
        wire.decode_to_gateway(msgpack.packb([1, [fields]]))
    assert "secret" not in str(refused.value)
    assert "$[0]" in str(refused.value)


@given(st.binary(max_size=200))
def test_decode_raises_nothing_but_wire_errors_for_bytes(frame: bytes) -> None:
    for decode in (wire.decode_to_worker, wire.decode_to_gateway):
        try:
            decode(frame)
        except WireError:
            pass


msgpack_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=8))
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(
    st.lists(st.lists(msgpack_values, max_size=11).map(lambda fields: fields), min_size=1, max_size=3),
    st.data(),
)
def test_decode_raises_nothing_but_wire_errors_for_near_misses(
    bodies: list[list[Any]], data: st.DataObject
) -> None:
    tags = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 32, 33, 34, 35, 36, 37, 38])
    frame = msgpack.packb([1, [[data.draw(tags), *body] for body in bodies]])
    for decode in (wire.decode_to_worker, wire.decode_to_gateway):
        try:
            decoded = decode(frame)
        except WireError:
            continue
        again = decode(wire.encode(decoded))
        assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(decoded)


@given(st.data())
def test_decode_survives_a_flipped_byte(data: st.DataObject) -> None:
    frame = bytearray(wire.encode(data.draw(st.sampled_from([*EXAMPLES.values(), *REPLIES.values()]))))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    for decode in (wire.decode_to_worker, wire.decode_to_gateway):
        try:
            decode(bytes(frame))
        except WireError:
            pass
