"""Scrubbing, by property: no spelling of a secret that is listed gets through."""

from __future__ import annotations

import base64
import logging
from urllib.parse import quote, quote_plus

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.extensions.http.secrets import BoundSecret, Scrubber, ScrubbingEncoder

PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
VALUES = st.text(PRINTABLE, min_size=8, max_size=60)
AROUND = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


def scrubber(value: str) -> Scrubber:
    return Scrubber([BoundSecret("TOKEN", value)])


@given(value=VALUES, before=AROUND, after=AROUND)
def test_secret_is_found_as_it_is(value: str, before: str, after: str) -> None:
    assert value not in scrubber(value).text(before + value + after).replace("[secret:TOKEN]", "")


@given(value=VALUES, before=AROUND, after=AROUND, url=st.booleans(), quoted=st.booleans())
def test_secret_is_found_in_base64_at_any_offset(
    value: str, before: str, after: str, url: bool, quoted: bool
) -> None:
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    text = encode((before + value + after).encode()).decode()
    clean = scrubber(value).text(quote(text, safe="") if quoted else text)

    assert "[secret:TOKEN]" in clean


@given(value=VALUES, upper=st.booleans(), plus=st.booleans())
def test_secret_is_found_url_encoded(value: str, upper: bool, plus: bool) -> None:
    text = quote_plus(value) if plus else quote(value, safe="")
    text = (
        text
        if upper
        else "".join(c.lower() if "%" in text[max(0, i - 2) : i] else c for i, c in enumerate(text))
    )

    assert scrubber(value).text(text) == "[secret:TOKEN]"


@given(value=VALUES)
def test_secret_is_found_with_every_character_encoded(value: str) -> None:
    assert scrubber(value).text("".join(f"%{ord(char):02x}" for char in value)) == "[secret:TOKEN]"


@given(value=VALUES, upper=st.booleans())
def test_secret_is_found_in_hexadecimal(value: str, upper: bool) -> None:
    text = value.encode().hex()

    assert scrubber(value).text(text.upper() if upper else text) == "[secret:TOKEN]"


@given(text=st.text(max_size=200))
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert scrubber("correct-horse-battery").text(text) == text


def test_log_loses_secrets_in_tracebacks_too() -> None:
    formatter = ScrubbingEncoder(scrubber("correct-horse"))
    try:
        raise ValueError("Illegal header value 'correct-horse'")
    except ValueError as exc:
        record = logging.LogRecord(
            "x", 30, "x", 1, "%s", ("correct-horse",), (ValueError, exc, exc.__traceback__)
        )

    assert "correct-horse" not in formatter.format(record)
