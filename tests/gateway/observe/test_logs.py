"""What is logged: no token, and nothing that forges a line."""

from __future__ import annotations

import logging
import sys

import jwt
import pytest

from panels_gateway.observe.logs import REDACTED, RedactingFormatter

TOKEN = jwt.encode({"sub": "canary"}, "s" * 32, algorithm="HS256")


def render(message: str, *arguments: object, exc_info: bool = False) -> str:
    info = sys.exc_info() if exc_info else None
    record = logging.LogRecord("panels", logging.INFO, "file.py", 1, message, arguments, info)
    return RedactingFormatter("%(levelname)s: %(message)s").format(record)


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"GET /panels/p/ws?token={TOKEN} HTTP/1.1",
        f"GET /panels/p/ws?a=1&token={TOKEN}&b=2",
        "GET /panels/p/ws?token=not-even-a-jwt HTTP/1.1",
        f"Authorization: Bearer {TOKEN}",
        f"Sec-WebSocket-Protocol: panels.v1, bearer.{TOKEN}",
        TOKEN.rpartition(".")[0],
    ],
)
def test_formatter_replaces_tokens(text: str) -> None:
    rendered = render("%s", text)
    assert REDACTED in rendered
    for part in (*TOKEN.split(".")[:2], "not-even"):
        assert part not in rendered


def test_formatter_replaces_tokens_in_tracebacks() -> None:
    try:
        raise ValueError(f"could not parse {TOKEN}")
    except ValueError:
        rendered = render("failed", exc_info=True)
    assert TOKEN.split(".")[1] not in rendered
    assert "Traceback" in rendered


def test_formatter_keeps_a_record_on_one_line() -> None:
    assert (
        render("a\nERROR: forged\x1b[2J\r\x00 é %s", "b\nc")
        == "INFO: a\\nERROR: forged\\x1b[2J\\r\\x00 é b\\nc"
    )
