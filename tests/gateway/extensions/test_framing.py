"""Frames between the gateway and the extension process."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.extensions import framing
from panels_gateway.extensions.errors import CallError, ErrorCode, FrameError
from panels_gateway.extensions.messages import (
    MAX_LEDGER_ENTRIES,
    CallId,
    LedgerEntry,
    Ping,
    Pong,
    Returned,
    ToExtensions,
    Verdict,
)
from tests.gateway.extensions.builders import a_call, a_return

ENTRY = LedgerEntry("example.com:443", "93.184.216.34", 10, 20, 3, ["TOKEN"], Verdict.OK)


def framed(value: object) -> bytes:
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(4, "big") + body


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_messages_come_out_whole_however_bytes_are_cut(cuts: list[int]) -> None:
    messages: list[ToExtensions] = [a_call("c1", b'["x"]'), Ping(), a_call("c2")]
    data = b"".join([framing.encode(message) for message in messages])
    decoder = framing.to_extensions()
    got: list[ToExtensions] = []
    while data:
        size = cuts[len(got) % len(cuts)]
        got += list(decoder.feed(data[:size]))
        data = data[size:]

    assert got == messages


def test_answer_goes_through_with_error_and_ledger() -> None:
    answer = Returned(CallId("c1"), error=CallError(ErrorCode.FAILED, "no"), ledger=[ENTRY])

    assert list(framing.from_extensions().feed(framing.encode(answer))) == [answer]


def test_length_is_refused_before_the_frame_is_read() -> None:
    with pytest.raises(FrameError, match="at most"):
        list(framing.to_extensions().feed((framing.MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


@pytest.mark.parametrize(
    "value",
    [
        [12, "c1", None, None, []],
        [12, "c1", b"1", ["extension_failed", "no"], []],
        [12, "c1", None, ["no such code", "no"], []],
        [12, "c1", None, ["extension_failed", "x" * 2_000], []],
        [12, "c1", b"1", None, [msgspec.to_builtins(ENTRY)] * (MAX_LEDGER_ENTRIES + 1)],
        [12, "", b"1"],
        [12, "c" * 300, b"1"],
        [11, [["http", "get", -1.0, 0, True]]],
        [9],
        {},
        None,
    ],
    ids=str,
)
def test_answer_is_refused_when_it_does_not_validate(value: object) -> None:
    with pytest.raises(FrameError):
        list(framing.from_extensions().feed(framed(value)))


@given(data=st.binary(max_size=200))
def test_decoder_raises_nothing_else_for_any_bytes(data: bytes) -> None:
    for frame in (data, len(data).to_bytes(4, "big") + data):
        try:
            list(framing.from_extensions().feed(frame))
        except FrameError:
            pass


def test_directions_are_not_mixed_up() -> None:
    assert list(framing.from_extensions().feed(framing.encode(Pong()))) == [Pong()]
    with pytest.raises(FrameError):
        list(framing.to_extensions().feed(framing.encode(a_return())))
