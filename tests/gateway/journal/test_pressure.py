"""When the log speaks of the backlog."""

from __future__ import annotations

import logging

from panels_gateway.journal.pressure import Level, Pressure


def said(pressure: Pressure, *backlogs: int) -> list[int]:
    """The levels of what is said while the backlog goes through these sizes."""
    return [told[0] for told in map(pressure.look, backlogs) if told is not None]


def test_backlog_that_stays_small_is_not_spoken_of() -> None:
    assert said(Pressure(100), 0, 50, 0, 49) == []


def test_each_step_up_is_said_once_and_the_way_down_when_it_is_far_below() -> None:
    pressure = Pressure(100)
    assert said(pressure, 51, 60, 100) == [logging.WARNING]
    assert said(pressure, 101, 90, 101, 26) == [logging.ERROR]
    assert pressure.level is Level.OVER
    assert said(pressure, 24, 10) == [logging.INFO]
    assert said(pressure, 200) == [logging.ERROR]


def test_sentence_has_both_numbers() -> None:
    told = Pressure(1_000).look(1_500)
    assert told is not None
    assert told[1].startswith(
        "1,500 of at most 1,000 bytes of the log wait to be folded: triggers are refused"
    )
