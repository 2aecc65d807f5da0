"""Offsets sort as versions do and come back as they were; cursors only go forward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.broadcast.offsets import (
    CURSOR_EPOCH_S,
    INTERVAL_S,
    JITTER,
    MAX_CURSOR_DIGITS,
    Offset,
    cursor,
    etag,
    matches,
    parse_offset,
)
from panels_shared.errors import Code, RequestError

EPOCHS = st.from_regex(r"[A-Za-z0-9_-]{8}\.[0-9]{1,6}", fullmatch=True)
SEQS = st.integers(0, 10**16 - 1)


@given(EPOCHS, SEQS)
def test_offset_comes_back_as_it_was(epoch: str, seq: int) -> None:
    offset = Offset(epoch, seq)
    assert parse_offset(str(offset)) == offset
    assert not set(str(offset)) & set(",&=?/ %+")
    assert str(offset) not in ("-1", "now")


@given(EPOCHS, SEQS, SEQS)
def test_offsets_sort_as_their_versions(epoch: str, one: int, other: int) -> None:
    assert (str(Offset(epoch, one)) < str(Offset(epoch, other))) == (one < other)


@given(st.text(max_size=120))
def test_any_text_is_an_offset_or_refused(text: str) -> None:
    try:
        found = parse_offset(text)
    except RequestError as error:
        assert error.code is Code.INVALID_REQUEST
    else:
        assert found in ("beginning", "now") or str(found) == text


@pytest.mark.parametrize(
    "text", ["", "0", "-2", "a_1", "_" + "0" * 16, "e_" + "٣" * 16, "e" * 90 + "_" + "0" * 16]
)
def test_what_nobody_was_told_is_no_offset(text: str) -> None:
    with pytest.raises(RequestError):
        parse_offset(text)


@given(st.integers(0, 10**10), st.integers(0, 10 ** (MAX_CURSOR_DIGITS - 1)), st.floats(0, 1))
def test_cursor_is_greater_than_the_one_given(now_s: int, given_one: int, drawn: float) -> None:
    found = int(cursor(now_s, str(given_one), lambda: drawn))
    assert found > given_one
    assert found <= max((now_s - CURSOR_EPOCH_S) // INTERVAL_S, given_one + 1 + JITTER)


@given(st.integers(0, 10**10), st.none() | st.text(max_size=30))
def test_cursor_is_always_a_number_that_can_be_given_back(now_s: int, given_one: str | None) -> None:
    found = cursor(now_s, given_one, lambda: 0.5)
    assert found.isascii()
    assert found.isdigit()
    assert len(found) <= MAX_CURSOR_DIGITS


def test_cursor_changes_with_the_stretch_of_time() -> None:
    assert cursor(CURSOR_EPOCH_S + 45, None, lambda: 0) == "2"
    assert cursor(CURSOR_EPOCH_S + 45, "1", lambda: 0) == "2"
    assert cursor(CURSOR_EPOCH_S + 45, "2", lambda: 0) == "3"
    assert cursor(0, None, lambda: 0) == "0"


def test_entity_tag_names_both_ends() -> None:
    tag = etag("beginning", Offset("e", 3))
    assert tag == '"-1:e_0000000000000003"'
    assert etag(Offset("e", 2), Offset("e", 3)) != tag
    assert [matches(text, tag) for text in (tag, f"W/{tag}", f'"a", {tag}', "*")] == [True] * 4
    assert [matches(text, tag) for text in (None, "", '"a"', tag[:-2])] == [False] * 4
