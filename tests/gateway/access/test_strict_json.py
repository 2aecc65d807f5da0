"""Strict JSON: one text, one meaning."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.access.strict_json import StrictJsonError, decode_strict


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'[{"b":{"a":1,"a":2}}]',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}x",
        b"[" * 100_000,
        b"9" * 5_000,
        b"{'a':1}",
    ],
)
def test_strict_json_refuses(text: bytes) -> None:
    with pytest.raises(StrictJsonError) as caught:
        decode_strict(text)
    assert len(str(caught.value)) < 60


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_values)
def test_strict_json_reads_what_json_writes(value: object) -> None:
    assert decode_strict(json.dumps(value).encode()) == value


@given(st.binary(max_size=50))
def test_strict_json_raises_nothing_else(text: bytes) -> None:
    try:
        decode_strict(text)
    except StrictJsonError:
        pass
