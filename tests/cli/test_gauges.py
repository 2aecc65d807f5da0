"""Rates and quantiles of two looks at the metrics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_cli.commands.top import picture
from panels_cli.gauges import grown, overview, parse, quantile

FIRST = """\
# HELP panels_triggers_total Triggers.
# TYPE panels_triggers_total counter
panels_triggers_total 100
panels_triggers_failed_total{reason="TRAP"} 1
panels_triggers_failed_total{reason="TIMEOUT"} 5
panels_workers 2
panels_execution_seconds_total 10
panels_trigger_seconds_bucket{le="0.001"} 10
panels_trigger_seconds_bucket{le="0.002"} 10
panels_trigger_seconds_bucket{le="+Inf"} 10
"""
SECOND = """\
panels_triggers_total 300
panels_triggers_failed_total{reason="TRAP"} 21
panels_triggers_failed_total{reason="TIMEOUT"} 5
panels_triggers_overloaded_total 4
panels_workers 2
panels_execution_seconds_total 12
panels_panel_fuel{panel="a \\"b\\" \\\\ \\n"} 900
panels_panel_fuel{panel="(others)"} 100
panels_panel_failures{panel="shop"} 12
panels_panel_failures{panel="(others)"} 0
panels_trigger_seconds_bucket{le="0.001"} 108
panels_trigger_seconds_bucket{le="0.002"} 109
panels_trigger_seconds_bucket{le="+Inf"} 110
panels_jobs_waiting 3
"""


def test_overview_is_what_happened_between_two_looks() -> None:
    seen = overview(parse(FIRST, 10.0), parse(SECOND, 12.0))
    assert (seen.triggers, seen.failed, seen.refused) == (100.0, 10.0, 2.0)
    assert (seen.p50_ms, seen.p99_ms) == (1.0, 2.0)
    assert seen.busy == 0.5
    assert seen.failures == [("TRAP", 10.0)]
    assert seen.panels == [('a "b" \\ \n', 900.0), ("(others)", 100.0)]
    assert seen.failing == [("shop", 12.0)]
    assert seen.levels == {"panels_workers": 2.0, "panels_jobs_waiting": 3.0}


def test_counter_that_began_anew_is_not_below_zero() -> None:
    seen = overview(parse(SECOND, 10.0), parse(FIRST, 12.0))
    assert (seen.triggers, seen.failed) == (50.0, 3.0)
    assert seen.p50_ms == 1.0
    assert grown(5.0, 2.0) == 2.0


def test_nothing_timed_has_no_quantile() -> None:
    look = parse(FIRST, 0.0)
    assert quantile(look, look, "panels_trigger_seconds", 0.5) is None
    slow = parse('x_bucket{le="1"} 0\nx_bucket{le="+Inf"} 3\n', 1.0)
    assert quantile(parse("", 0.0), slow, "x", 0.5) == math.inf


def test_picture_says_what_is_not_there() -> None:
    lines = picture(overview(parse("", 0.0), parse("", 1.0)))
    assert lines[0] == "triggers  0.0/s   failed 0.0/s   refused 0.0/s   p50 -   p99 -"
    assert len(lines) == 4
    shown = picture(overview(parse(FIRST, 10.0), parse(SECOND, 12.0)))
    assert "      10.0  TRAP" in shown
    assert "        12  shop" in shown
    assert "            100    10%  (others)" in shown


@pytest.mark.parametrize("line", ["", "x", "x{ 1", 'x{a="b} 1', "x one", "1x 2", "x 1 2 3", "#x 1"])
def test_line_that_is_none_is_left_out(line: str) -> None:
    assert parse(line, 0.0).total("x") == 0.0


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    overview(parse(text, 0.0), parse(text, 0.0))
