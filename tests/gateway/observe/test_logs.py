"""The gateway's log as it is set up: where it goes, and who may speak from which level on."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from panels_gateway.observe.logs import configure_logging


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("panels")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])


def configured(
    monkeypatch: pytest.MonkeyPatch, levels: str = "info", form: str = "auto", *, terminal: bool = False
) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(levels, form)
    return stream


def test_log_is_json_where_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch)
    logging.getLogger("panels.gateway").info("hello")
    assert json.loads(stream.getvalue())["event"] == "hello"


@pytest.mark.parametrize(("form", "terminal"), [("auto", True), ("text", False)])
def test_log_is_text_for_people(form: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = configured(monkeypatch, form=form, terminal=terminal)
    logging.getLogger("panels.gateway").info("hello")
    assert stream.getvalue().endswith(" INFO panels.gateway: hello\n")


def test_single_loggers_have_levels_of_their_own_until_they_are_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = configured(monkeypatch, "warning,panels.gateway.bus=debug", "text")
    for name in ("panels.gateway.bus", "panels.gateway", "other"):
        logging.getLogger(name).debug("a %s", name)
        logging.getLogger(name).info("b %s", name)
    assert [line.rpartition(": ")[2] for line in stream.getvalue().splitlines()] == [
        "a panels.gateway.bus",
        "b panels.gateway.bus",
    ]
    configure_logging("warning", "text")
    logging.getLogger("panels.gateway.bus").info("c")
    logging.getLogger("panels.gateway.bus").warning("d")
    assert "d" in stream.getvalue().splitlines()[-1]
    assert ": c" not in stream.getvalue()
