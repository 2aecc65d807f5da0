"""A child's log on its way to its parent."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.loglines import (
    FIELDS,
    MAX_EVENT_CHARS,
    MAX_FIELD_CHARS,
    MAX_LINE_BYTES,
    MAX_TRACE_CHARS,
    TRACE,
    LineEncoder,
    decode,
    fields_of,
)

LOGGER = "panels.worker.sandbox"


def encoded(
    message: str,
    *,
    level: int = logging.INFO,
    name: str = LOGGER,
    trace: bool = False,
    fields: dict[str, str] | None = None,
    **more: object,
) -> bytes:
    record = logging.LogRecord(name, level, "f", 1, message, (), sys.exc_info() if trace else None)
    record.__dict__.update({**(fields or {}), **more})
    return LineEncoder().format(record).encode()


def test_record_comes_out_as_it_went_in() -> None:
    line = decode(encoded("a\nb", level=logging.ERROR, job=3, tool="inc"), logger=LOGGER)
    assert (line.level, line.logger, line.fields, line.trace) == (
        logging.ERROR,
        LOGGER,
        {"job": 3, "tool": "inc"},
        "",
    )
    assert line.text == "a�b", "what a child writes drives no terminal and begins no line"


def test_trace_is_a_part_of_its_record() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        data = encoded("failed", trace=True)
    assert b"\n" not in data
    assert decode(data, logger=LOGGER).trace.endswith("ValueError: no")


def test_line_is_logged_with_the_parents_ids(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    decode(encoded("hello", job=3, worker="forged", pid=1), logger=LOGGER).write(worker="w", pid=42)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == (LOGGER, "hello")
    assert fields_of(record) == {"worker": "w", "pid": 42, "job": 3}
    assert record.__dict__[TRACE] is None


def test_logger_of_a_library_is_named_in_the_text_and_never_made_in_the_parent() -> None:
    line = decode(encoded("hello", name="httpx.very.strange"), logger=LOGGER)
    assert (line.logger, line.text) == (LOGGER, "httpx.very.strange: hello")
    assert "httpx.very.strange" not in logging.root.manager.loggerDict
    assert decode(encoded("hello", name=LOGGER + ".x"), logger=LOGGER).text == "hello"


@pytest.mark.parametrize(
    "data",
    [
        b"Traceback (most recent call last):",
        b"{}",
        b"\xff",
        b"[" * 50_000,
        b'{"level":"loud","logger":"a","event":"b"}',
    ],
)
def test_what_is_no_line_of_ours_is_a_warning(data: bytes) -> None:
    line = decode(data, logger=LOGGER)
    assert (line.level, line.logger, dict(line.fields)) == (logging.WARNING, LOGGER, {})
    assert len(line.text) <= MAX_EVENT_CHARS


def test_line_that_a_child_makes_as_long_as_it_can_fits_and_is_taken() -> None:
    data = encoded("\x00" * 10**5, fields=dict.fromkeys(FIELDS, "\x00" * 10_000))
    assert len(data) <= MAX_LINE_BYTES
    assert len(decode(data, logger=LOGGER).text) == MAX_EVENT_CHARS


def test_line_of_a_hostile_child_is_cut() -> None:
    data = json.dumps(
        {
            "level": "info",
            "logger": "x" * 9_000,
            "event": "y" * 9_000,
            "fields": {"job": 1, "panel": "z" * 9_000, "evil": "1", "pid": 1},
            "exception": "w" * 9_000,
        }
    ).encode()
    line = decode(data, logger=LOGGER)
    assert len(line.text) <= MAX_EVENT_CHARS + MAX_FIELD_CHARS + 2
    assert len(line.trace) == MAX_TRACE_CHARS
    assert line.fields == {"job": 1, "panel": "z" * MAX_FIELD_CHARS}


@given(st.binary(max_size=4_096))
def test_any_bytes_become_a_line(data: bytes) -> None:
    line = decode(data, logger=LOGGER)
    assert line.logger == LOGGER
    assert not {"\x1b", "\n"} & set(line.text)
