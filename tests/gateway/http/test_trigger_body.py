"""The body of a trigger over HTTP, and what is said of one that is wrong."""

from __future__ import annotations

import json

import pytest

from panels_gateway.http import trigger_body
from panels_shared.errors import Code, RequestError


def refusal(body: bytes, header: str | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        trigger_body.decode(body, header)
    assert caught.value.code is Code.PARSE_ERROR
    assert len(caught.value.message) < 300
    return caught.value.message


def test_body_may_be_empty() -> None:
    assert trigger_body.decode(b"", None) == (b"null", None, None)
    assert trigger_body.decode(b"", "h") == (b"null", "h", None)
    assert trigger_body.decode(b"{}", None) == (b"null", None, None)


def test_body_wins_over_the_header() -> None:
    assert trigger_body.decode(b'{"args":[1],"requestId":"b"}', "h") == (b"[1]", "b", None)
    assert trigger_body.decode(b'{"args":[1],"requestId":null}', "h") == (b"[1]", "h", None)
    assert trigger_body.decode(b'{"requestId":"b"}', "h" * 257) == (b"null", "b", None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"args":{},"requestId":5}', "requestId: expected a string, got a number"),
        (b'{"args":NaN,"requestId":"r"}', "args: expected JSON"),
        (b'{"args":' + b"[" * 65 + b"]" * 65 + b"}", "args: expected nesting of at most 64"),
        (b'{"requestId":"\\ud800"}', "requestId: expected"),
        (
            b'{"requestId":' + json.dumps("r" * 257).encode() + b"}",
            "requestId: expected at most 256 characters",
        ),
        (b'{"expectedSeq":"5"}', "expectedSeq: expected a number, got a string"),
        (b'{"expectedSeq":true}', "expectedSeq: expected a number, got a boolean"),
        (b'{"expectedSeq":-1}', "expectedSeq: expected a version"),
        (b'{"expectedSeq":1.5}', "expectedSeq: expected a version"),
        (b'{"expectedSeq":9223372036854775808}', "expectedSeq: expected a version"),
        (b'{"arg":1}', "arg: expected no such field"),
        (b'{"args":1,}', "expected JSON"),
        (b"[1]", 'expected a JSON object {"args"?, "requestId"?, "expectedSeq"?}'),
        (b'{"args":"\xff"}', "expected UTF-8"),
        (b"{", "expected JSON"),
    ],
)
def test_error_names_the_field(body: bytes, message: str) -> None:
    assert refusal(body).startswith(message)


def test_error_names_the_header() -> None:
    assert refusal(b"", "h" * 257) == "x-request-id: expected at most 256 characters, got 257"


@pytest.mark.parametrize("seq", [0, 7, 2**63 - 1])
def test_body_may_expect_a_version(seq: int) -> None:
    assert trigger_body.decode(b'{"expectedSeq":%d}' % seq, None) == (b"null", None, seq)
    assert trigger_body.decode(b'{"expectedSeq":null}', None) == (b"null", None, None)
