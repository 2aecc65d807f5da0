from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**308), 10**308),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8")),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(st.characters(codec="utf-8")), inner)),
    max_leaves=20,
)


@given(values)
def test_decode_agrees_with_the_standard_library(value: Any) -> None:
    text = json.dumps(value)
    assert jsonvalue.decode(text) == json.loads(text)
    assert jsonvalue.decode(text.encode()) == json.loads(text)


@given(values)
def test_encode_is_undone_by_decode(value: Any) -> None:
    assert jsonvalue.decode(jsonvalue.encode(value)) == value


@pytest.mark.parametrize("depth", [jsonvalue.MAX_DEPTH + 1, 300, 1025, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_decode_refuses_nesting_above_its_bound(depth: int, brackets: tuple[str, str]) -> None:
    opening, closing = brackets
    inner = "1" if opening != "[" else ""
    with pytest.raises(InvalidJsonError, match="nesting of at most 64"):
        jsonvalue.decode(opening * depth + inner + closing * depth)


def test_decode_takes_nesting_up_to_its_bound() -> None:
    jsonvalue.decode("[" * 64 + "]" * 64)
    jsonvalue.decode("[" + "[]," * 1000 + "[]]")


#: The integers next to the bound: the first rounds to the largest double, the second to infinity.
LARGEST_INTEGER = 2**1024 - 2**970 - 1


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("digits", [str(LARGEST_INTEGER + 1), "1" + "0" * 309, "9" * 400, "1" + "0" * 5000])
def test_decode_refuses_integers_beyond_a_double(digits: str, sign: str) -> None:
    for document in (sign + digits, f'{{"a":[{sign}{digits}]}}'):
        for text in (document, document.encode()):
            with pytest.raises(InvalidJsonError):
                jsonvalue.decode(text)


@pytest.mark.parametrize(
    "number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**20, 10**21, 10**308, LARGEST_INTEGER]
)
def test_decode_takes_every_integer_that_a_double_can_hold(number: int) -> None:
    for sign in (1, -1):
        assert jsonvalue.decode(str(sign * number)) == sign * number
        assert jsonvalue.encode({"a": [sign * number]}) == b'{"a":[%d]}' % (sign * number)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_spelling_of_a_number_does_not_decide(number: float) -> None:
    """A double passes with an exponent, with a point, and as an integer with all its digits."""
    for spelling in (repr(number), f"{number:.20e}", f"{int(number)}"):
        jsonvalue.validate(spelling)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"nul",
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"01",
        b"+1",
        b"'a'",
        b"[1,]",
        b'"\\ud800"',
        b'"\\ude00x"',
        b'"\xff"',
    ]
    + [b'"\xed\xa0\x80"', b'"\x01"', b"{1:2}", b"1 2", b'"\xc0\x80"', b"\xef\xbb\xbf1"],
)
def test_decode_refuses_what_is_not_json(text: bytes) -> None:
    with pytest.raises(InvalidJsonError):
        jsonvalue.decode(text)


def test_decode_refuses_a_python_string_with_a_lone_surrogate() -> None:
    with pytest.raises(InvalidJsonError, match="surrogate"):
        jsonvalue.decode('"\ud800"')


@given(st.binary())
def test_decode_raises_nothing_but_invalid_json(data: bytes) -> None:
    try:
        jsonvalue.decode(data)
    except InvalidJsonError:
        return


def test_decode_lets_the_last_of_duplicate_keys_count() -> None:
    assert jsonvalue.decode('{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize("size", [1, 1_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("text", "sound"),
    [
        (b"[" * 64 + b"]" * 64, True),
        (b"[" * 65 + b"]" * 65, False),
        (b'["' + b"[" * 100 + b'"]', True),
        (b'["\\"' + b"{" * 100 + b'\\\\"]', True),
        (b"1e308", True),
        (b"1e309", False),
        (b"-1E+999", False),
        (b"0e999", True),
        (b"1e-999", True),
        (b'"1e999"', True),
        (b"9" * 308, True),
        (b"9" * 310, False),
        (b"1" + b"0" * 299 + b"e50", False),
        (b"0." + b"3" * 400, True),
        (b"nope", False),
        (b'"\xff"', False),
    ],
)
def test_vet_accepts_what_validate_does_without_making_objects(text: bytes, sound: bool, size: int) -> None:
    """``size`` blanks around a text make it large, and change nothing."""
    text = b" " * size + text
    for check in (jsonvalue.validate, jsonvalue.vet):
        if sound:
            check(text)
        else:
            with pytest.raises(InvalidJsonError):
                check(text)
