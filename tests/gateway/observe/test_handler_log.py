"""What handlers log, within its budgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from panels_gateway.observe.handler_log import LINE_CHARS, HandlerLog
from panels_shared.loglines import fields_of
from panels_shared.messages import PanelKey
from panels_shared.outcome import Failed, LogLine, Reason, Usage
from panels_shared.rate import RateLimit

LOGGER = "panels.handler"
#: Room for ten lines of ten characters, and two more a second.
TEN = RateLimit(per_s=2 * (LINE_CHARS + 10), burst=10 * (LINE_CHARS + 10))
PLENTY = RateLimit(per_s=10**9, burst=10**9)


def lines(count: int, *, level: int = 1, text: str = "x" * 10) -> list[LogLine]:
    return [LogLine(level, text)] * count


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> HandlerLog:
    caplog.set_level(logging.DEBUG, LOGGER)
    return HandlerLog(0.0, panel_budget=TEN, total_budget=PLENTY)


def write(log: HandlerLog, what: Sequence[LogLine], *, panel: int = 1, now_s: float = 0.0) -> None:
    log.write(PanelKey(panel), f"p{panel}", "tool", what, now_s)


def test_line_is_logged_with_its_panel_tool_and_level(
    log: HandlerLog, caplog: pytest.LogCaptureFixture
) -> None:
    write(log, [LogLine(0, "a"), LogLine(1, "b"), LogLine(2, "c"), LogLine(3, "d")])

    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]
    assert caplog.record_tuples == [
        (LOGGER, level, f"p1/tool: {text}") for level, text in zip(levels, "abcd", strict=True)
    ]


@pytest.mark.parametrize("level", [-1, 4, 99])
def test_line_of_a_level_that_does_not_exist_is_info(
    log: HandlerLog, caplog: pytest.LogCaptureFixture, level: int
) -> None:
    write(log, lines(1, level=level))

    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_lines_above_the_budget_are_dropped_and_counted(
    log: HandlerLog, caplog: pytest.LogCaptureFixture
) -> None:
    write(log, lines(25))

    assert len(caplog.records) == 10


def test_next_line_that_is_written_says_how_many_were_dropped(
    log: HandlerLog, caplog: pytest.LogCaptureFixture
) -> None:
    write(log, lines(25))
    caplog.clear()
    write(log, lines(3), now_s=1.0)

    assert [record.getMessage() for record in caplog.records] == [
        "p1: 15 lines of its handlers were not logged: too many",
        "p1/tool: xxxxxxxxxx",
        "p1/tool: xxxxxxxxxx",
    ]


def test_budget_never_grows_above_its_burst(log: HandlerLog, caplog: pytest.LogCaptureFixture) -> None:
    write(log, lines(1))
    caplog.clear()
    write(log, lines(25), now_s=10_000.0)

    assert len(caplog.records) == 10


def test_clock_that_goes_back_gives_nothing(log: HandlerLog, caplog: pytest.LogCaptureFixture) -> None:
    write(log, lines(10), now_s=100.0)
    caplog.clear()
    write(log, lines(5), now_s=50.0)

    assert caplog.records == []


def test_noisy_panel_leaves_others_their_budget(log: HandlerLog, caplog: pytest.LogCaptureFixture) -> None:
    write(log, lines(1_000))
    caplog.clear()
    write(log, lines(10), panel=2)

    assert len(caplog.records) == 10


def test_all_panels_together_have_a_budget(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    log = HandlerLog(0.0, panel_budget=PLENTY, total_budget=TEN)
    for panel in range(50):
        write(log, lines(1), panel=panel)

    assert len(caplog.records) == 10


def test_line_longer_than_the_budget_is_dropped_alone(
    log: HandlerLog, caplog: pytest.LogCaptureFixture
) -> None:
    write(log, [LogLine(1, "x" * 10_000), LogLine(1, "short")])

    assert [record.getMessage() for record in caplog.records][-1] == "p1/tool: short"


def test_line_below_the_level_that_is_logged_costs_no_budget(
    log: HandlerLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    write(log, lines(1_000, level=0))
    write(log, lines(10))

    assert len(caplog.records) == 10


def test_panel_that_is_forgotten_begins_anew(log: HandlerLog, caplog: pytest.LogCaptureFixture) -> None:
    write(log, lines(25))
    log.forget(PanelKey(1))
    log.forget(PanelKey(1))
    caplog.clear()
    write(log, lines(10))

    assert len(caplog.records) == 10


def test_line_has_the_ids_of_its_job_beside_it(log: HandlerLog, caplog: pytest.LogCaptureFixture) -> None:
    log.write(PanelKey(1), "p1", "tool", lines(1), 0.0, job=7, request="r", worker="w")

    (record,) = caplog.records
    assert fields_of(record) == {"panel": "p1", "tool": "tool", "job": 7, "request": "r", "worker": "w"}


@pytest.mark.parametrize(
    ("line", "column", "place"), [(3, 7, " at line 3, column 7"), (3, 0, " at line 3"), (0, 7, "")]
)
def test_failure_is_logged_for_whoever_debugs_with_its_place(
    log: HandlerLog, caplog: pytest.LogCaptureFixture, line: int, column: int, place: str
) -> None:
    failed = Failed(Usage(), Reason.HANDLER_ERROR, "no", line, column)
    log.failed(PanelKey(1), "p1", "tool", failed, 0.0)
    assert caplog.record_tuples == [(LOGGER, logging.DEBUG, f"p1/tool: failed{place}: no (HANDLER_ERROR)")]
    caplog.clear()
    caplog.set_level(logging.INFO, LOGGER)
    log.failed(PanelKey(1), "p1", "tool", failed, 0.0)
    assert caplog.records == []
