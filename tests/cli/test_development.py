"""What `panels up` makes of changed files and of lines in logs."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from panels_cli import development
from panels_cli.development import AGAIN_S, SECOND_LOOK_S, Logged, Watched
from panels_shared.logs import formatter

A, B = Path("/w/a"), Path("/w/b")


def test_changed_folders_are_due_once() -> None:
    watched = Watched()
    watched.changed([B, A], 5.0)
    assert watched.next_s() == 5.0
    assert watched.due(4.9) == []
    assert watched.due(5.0) == [A, B]
    assert watched.due(6.0) == []
    assert watched.next_s() is None


def test_unreadable_folder_gets_a_second_look_before_anybody_is_told() -> None:
    watched = Watched()
    assert not watched.failed(A, "half", 1.0, unread=True, again=False)
    assert watched.due(1.0) == []
    assert watched.due(1.0 + SECOND_LOOK_S) == [A]
    assert watched.failed(A, "half", 1.2, unread=True, again=False)
    # the same is not told twice, something else is
    assert not watched.failed(A, "half", 1.4, unread=True, again=False)
    assert watched.failed(A, "other", 1.6, unread=True, again=False)


def test_refusal_is_told_at_once_and_tried_again_only_if_that_may_help() -> None:
    watched = Watched()
    assert watched.failed(A, "syntax", 1.0, unread=False, again=False)
    assert watched.next_s() is None
    assert watched.failed(A, "overloaded", 2.0, unread=False, again=True)
    assert watched.next_s() == 2.0 + AGAIN_S


def test_folder_is_news_when_it_differs_or_was_mended() -> None:
    watched = Watched()
    assert watched.is_news(A, "1")
    watched.applied(A, "1")
    assert not watched.is_news(A, "1")
    assert watched.is_news(A, "2")
    assert watched.failed(A, "syntax", 1.0, unread=False, again=False)
    assert watched.is_news(A, "1"), "whoever saw the problem wants to see that it is gone"
    assert not watched.is_news(A, "1")


def test_forgotten_folder_is_news_again() -> None:
    watched = Watched()
    watched.applied(A, "1")
    watched.forget(A)
    assert watched.is_news(A, "1")


def test_owners_are_the_folders_of_the_paths() -> None:
    assert development.owners([A, B], ["/w/a/tools/x.js", "/w/ab/x.js"]) == [A]
    assert development.owners([A, B], ["/w/b"]) == [B]


def record(line: str) -> str:
    """A line as ``LEVEL LOGGER: TEXT`` says, as the programs write it with ``--log-format json``."""
    level, logger, event = re.fullmatch(r"([A-Z]+) ([\w.]+): (.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    made = logging.LogRecord(logger, logging.getLevelNamesMapping()[level], "f", 1, event, (), None)
    return formatter("json").format(made)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("INFO panels.handler: p/add: hello", Logged("handler", "p/add: hello")),
        ("ERROR panels.handler: p/add: hello", Logged("handler", "p/add: hello")),
        (
            "DEBUG panels.handler: p/add: failed at line 3: no",
            Logged("failed", "p/add: failed at line 3: no"),
        ),
        (
            "WARNING panels.handler: p/add: would not replay: it differs",
            Logged("warning", "p/add: would not replay: it differs"),
        ),
        ("WARNING panels.gateway: disk", Logged("warning", "disk")),
        ("INFO panels.handler: p/add: \x1b[2J\nWARNING", Logged("handler", "p/add: \\x1b[2J\\nWARNING")),
        ("CRITICAL panels.gateway: disk", Logged("error", "disk")),
        ("WARNING panels.gateway: as expected", None),
        ("INFO panels.gateway: listening", None),
        ("DEBUG panels.gateway: anything", None),
    ],
)
def test_logged_shows_handlers_and_warnings(line: str, shown: Logged | None) -> None:
    assert development.logged(record(line), quiet=frozenset({"as expected"})) == shown


def test_logged_ignores_what_is_no_record() -> None:
    for line in (
        "Traceback (most recent call last):",
        "",
        "{}",
        "[1]",
        '{"level":1,"logger":"a","event":"b"}',
    ):
        assert development.logged(line) is None


def test_listening_finds_the_url() -> None:
    line = record("INFO panels.gateway: listening on http://127.0.0.1:3977; workers connect to ipc:///x")
    assert development.listening(line) == "http://127.0.0.1:3977"
    assert development.listening("") is None


def test_failure_shows_the_source_at_its_place() -> None:
    files = {("p", "add"): (Path("p/add.js"), "const a = 1;\n\tboom();\n")}
    text, snippet = development.failure("p/add: failed at line 2, column 2: Error: no", files)
    assert text == "p/add.js:2:2: p/add: failed at line 2, column 2: Error: no"
    assert snippet == ("\tboom();", "\t^")


@pytest.mark.parametrize("text", ["p/other: failed at line 1: no", "p/add: failed: no", "nothing"])
def test_failure_without_a_known_place_stays_as_it_is(text: str) -> None:
    assert development.failure(text, {("p", "add"): (Path("p/add.js"), "x")}) == (text, ())
