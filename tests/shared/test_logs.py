"""What a line of the log looks like: no token, nothing that forges a line, the same fields in both forms."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import jwt
import pytest

from panels_shared.loglines import FIELDS, REDACTED, TRACE, LogFormat
from panels_shared.logs import choose, formatter

TOKEN = jwt.encode({"sub": "canary"}, "s" * 32, algorithm="HS256")


def render(
    form: LogFormat,
    message: str,
    *arguments: object,
    exc_info: bool = False,
    colors: bool = False,
    trace: str | None = None,
    **fields: Any,
) -> str:
    info = sys.exc_info() if exc_info else None
    record = logging.LogRecord("panels.gateway", logging.WARNING, "file.py", 1, message, arguments, info)
    record.__dict__.update(fields)
    record.__dict__[TRACE] = trace
    return formatter(form, colors=colors).format(record)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"GET /panels/p/ws?token={TOKEN} HTTP/1.1",
        f"GET /panels/p/ws?a=1&token={TOKEN}&b=2",
        "GET /panels/p/ws?token=not-even-a-jwt HTTP/1.1",
        f"Authorization: Bearer {TOKEN}",
        "Sec-WebSocket-Protocol: panels.v1, bearer.not-even-a-jwt",
        "Authorization: Bearer not-even-a-jwt",
        f"Sec-WebSocket-Protocol: panels.v1, bearer.{TOKEN}",
        TOKEN.rpartition(".")[0],
    ],
)
def test_tokens_are_replaced_in_text_fields_and_traces(text: str, form: LogFormat) -> None:
    try:
        raise ValueError(f"could not parse {text}")
    except ValueError:
        rendered = [
            render(form, "%s", text),
            render(form, "x", request=text, path=text),
            render(form, "failed", exc_info=True),
            render(form, "failed", trace=f"Traceback\n  {text}"),
        ]
    for line in rendered:
        assert REDACTED in line
        for part in (*TOKEN.split(".")[:2], "not-even"):
            assert part not in line


def test_json_has_one_object_a_line_with_all_fields() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = render(
            "json", 'a "quoted"\nline %s', "é", exc_info=True, panel="p", job=3, request="r", other=1
        )
    assert "\n" not in line
    read = json.loads(line)
    assert list(read) == ["time", "level", "logger", "event", "panel", "job", "request", "exception"]
    assert (read["level"], read["logger"], read["event"]) == (
        "warning",
        "panels.gateway",
        'a "quoted"\nline é',
    )
    assert (read["panel"], read["job"], read["request"]) == ("p", 3, "r")
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("ValueError: no")
    assert read["time"].endswith("Z")


def test_text_keeps_a_record_on_one_line() -> None:
    line = render("text", "a\nERROR: forged\x1b[2J\r\x00 é %s", "b\nc", request="x\ny z")
    assert line.partition(" WARNING panels.gateway: ")[2] == (
        "a\\nERROR: forged\\x1b[2J\\r\\x00 é b\\nc [request='x\\ny z']"
    )


def test_text_shows_fields_that_the_text_does_not_say() -> None:
    line = render("text", "p/inc: hello", panel="p", tool="inc", job=3, worker="abcd")
    assert line.endswith(": p/inc: hello [worker=abcd job=3]")


def test_text_shows_a_trace_below_without_control_characters() -> None:
    line = render("text", "x", trace="Traceback\n\tat \x1b[2J")
    assert line.endswith(": x\nTraceback\n\tat \\x1b[2J")


def test_colors_are_for_levels_that_want_attention() -> None:
    assert "\x1b[33mWARNING\x1b[0m" in render("text", "x", colors=True)
    assert "\x1b" not in render("text", "x")


def test_long_field_is_cut() -> None:
    assert len(json.loads(render("json", "x", request="y" * 10_000))["request"]) < 200
    assert "y" * 200 not in render("text", "x", request="y" * 10_000)


def test_auto_means_text_on_a_terminal_and_json_elsewhere() -> None:
    assert [choose("auto", terminal=at) for at in (True, False)] == ["text", "json"]
    assert [choose(form, terminal=True) for form in ("json", "text")] == ["json", "text"]


def test_fields_do_not_collide_with_those_of_the_library() -> None:
    record = logging.LogRecord("a", 10, "f", 1, "m", (), None)
    assert not set(FIELDS) & set(record.__dict__)
