"""A body within its bound."""

from __future__ import annotations

import gzip

import pytest

from panels_gateway.extensions.errors import CallFailedError, ErrorCode
from panels_gateway.extensions.http.body import Body


def test_bomb_is_never_unpacked_beyond_the_limit() -> None:
    body = Body("gzip", limit_bytes=1_000)
    with pytest.raises(CallFailedError) as caught:
        body.feed(gzip.compress(bytes(10_000_000)))

    assert caught.value.code is ErrorCode.LIMIT
    assert len(body._data) == 1_001


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_body_of_exactly_the_limit_is_taken_byte_by_byte(encoding: str) -> None:
    body = Body(encoding, limit_bytes=1_000)
    data = bytes(1_000)
    for byte in gzip.compress(data) if encoding else data:
        body.feed(bytes([byte]))

    assert body.finish() == data
