"""What a handler says of its failure to programs: nothing of it may break a message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.errors import InvalidJsonError
from panels_shared.failure import CODE_FIELD, DETAILS_FIELD, is_code, read_details, vetted
from panels_shared.limits import MAX_HANDLER_CODE_CHARS, MAX_HANDLER_DETAILS_BYTES


@pytest.mark.parametrize("text", ["A", "TITLE_TAKEN", "board.full", "a:b-c", "x" * MAX_HANDLER_CODE_CHARS])
def test_code_may_be_a_name(text: str) -> None:
    assert is_code(text)


@pytest.mark.parametrize(
    "text", ["", "1A", "_A", "A B", "A\n", "É", "A\u0661", "x" * (MAX_HANDLER_CODE_CHARS + 1), None, 5, b"A"]
)
def test_code_is_nothing_else(text: object) -> None:
    assert not is_code(text)


@pytest.mark.parametrize("value", [None, 1, "text", [1, {"a": None}], {"taken": ["a", "b"]}])
def test_details_may_be_any_value(value: object) -> None:
    assert read_details(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"1,2", b"]", b"][", b"1]", b"{", b"NaN", b'"\\ud800"', b"\xff", b"[" * 64 + b"]" * 64],
)
def test_details_are_one_value_within_bounds(text: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        read_details(text)


def test_details_have_a_size() -> None:
    fits = b'"' + b"x" * (MAX_HANDLER_DETAILS_BYTES - 2) + b'"'
    assert len(read_details(fits)) == MAX_HANDLER_DETAILS_BYTES - 2
    with pytest.raises(InvalidJsonError, match="expected at most 4096 bytes, got 4097"):
        read_details(fits + b" ")


def test_vetted_drops_what_no_handler_can_have_given() -> None:
    assert vetted({CODE_FIELD: "A", DETAILS_FIELD: 1, "stack": "s"}) == {
        CODE_FIELD: "A",
        DETAILS_FIELD: 1,
        "stack": "s",
    }
    assert vetted({CODE_FIELD: 5, DETAILS_FIELD: 1, "stack": "s"}) == {"stack": "s"}
    assert vetted({DETAILS_FIELD: 1}) == {}
    assert vetted({CODE_FIELD: "A", DETAILS_FIELD: "x" * MAX_HANDLER_DETAILS_BYTES}) == {CODE_FIELD: "A"}


@given(st.binary(max_size=80))
def test_any_bytes_are_one_value_or_refused(text: bytes) -> None:
    try:
        value = read_details(text)
    except InvalidJsonError:
        return
    assert json.loads(text) == value
