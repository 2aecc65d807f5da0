"""When tools are due: whole intervals, minutes of a time zone, and what was missed."""

from __future__ import annotations

from datetime import datetime
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels.definition import Cron, Interval
from panels_gateway.panels.schedule import MAX_MISSED, due_after, due_of, missed

DAY_MS = 24 * 3_600_000
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    """That time in Berlin."""
    return int(datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp() * 1_000)


def local(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, BERLIN).isoformat(timespec="minutes")


@given(st.integers(100, 10**9), st.integers(0, 2 * 10**12), st.integers(-(10**9), 10**12), st.integers(0, 50))
def test_interval_is_due_at_whole_multiples(ms: int, created: int, offset: int, count: int) -> None:
    after = created + offset
    found = list(islice(due_after(Interval(ms), created, after), count + 1))
    assert after < found[0] <= after + ms
    assert all((due - created) % ms == 0 for due in found)
    assert [b - a for a, b in pairwise(found)] == [ms] * count


def test_cron_is_due_at_its_minutes() -> None:
    found = islice(due_after(Cron("*/30 9 * * 1-5", "Europe/Berlin"), 0, at("2026-01-02T09:10")), 3)
    assert [local(due) for due in found] == [
        "2026-01-02T09:30+01:00",
        "2026-01-05T09:00+01:00",
        "2026-01-05T09:30+01:00",
    ]


def test_cron_is_not_due_at_the_time_after_which_it_is_asked() -> None:
    cron = Cron("0 9 * * *", "Europe/Berlin")
    due = next(due_after(cron, 0, at("2026-01-02T08:59")))
    assert next(due_after(cron, 0, due)) == due + DAY_MS
    assert next(due_after(cron, 0, due - 1)) == due


def test_cron_of_every_day_is_due_once_when_clocks_change() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    spring = [local(due) for due in islice(due_after(cron, 0, at("2026-03-28T12:00")), 2)]
    assert [text[:10] for text in spring] == ["2026-03-29", "2026-03-30"]
    autumn = [local(due) for due in islice(due_after(cron, 0, at("2026-10-24T12:00")), 2)]
    assert [text[:10] for text in autumn] == ["2026-10-25", "2026-10-26"]


def test_cron_of_every_hour_is_due_each_hour_that_there_is() -> None:
    cron = Cron("0 * * * *", "Europe/Berlin")
    for begin, hours in (("2026-03-29T00:00", 23), ("2026-10-25T00:00", 25)):
        end = at(begin[:8] + str(int(begin[8:10]) + 1) + "T00:00")
        times = [due for due in islice(due_after(cron, 0, at(begin) - 1), 30) if due < end]
        assert len(times) == hours


def test_nothing_was_missed_by_a_tool_that_never_ran() -> None:
    assert missed(Interval(1_000, "all"), 0, None, 10**9) == []


@pytest.mark.parametrize(
    ("misfire", "expected"), [("skip", []), ("once", [4_000]), ("all", [2_000, 3_000, 4_000])]
)
def test_missed_due_times_are_as_the_trigger_says(misfire: str, expected: list[int]) -> None:
    timed = Interval(1_000, misfire)  # type: ignore[arg-type]
    assert missed(timed, 0, 1_000, 4_999) == expected
    assert missed(timed, 0, 4_000, 4_999) == []
    assert missed(timed, 0, 9_000, 4_999) == []


def test_missed_due_times_are_bounded() -> None:
    assert len(missed(Interval(100, "all"), 0, 0, 10**9)) == MAX_MISSED


@pytest.mark.parametrize(
    "timed", [Interval(100, "once"), Cron("* * * * *", misfire="once"), Cron("0 0 1 1 *", misfire="once")]
)
def test_latest_due_time_is_run_once_however_long_the_downtime_was(timed: Interval | Cron) -> None:
    now = at("2026-06-01T12:00")
    (found,) = missed(timed, 0, at("2020-01-01T00:00"), now)
    assert next(due_after(timed, 0, found)) > now
    assert missed(timed, 0, found, now) == []


@pytest.mark.parametrize(
    ("args", "due_ms"),
    [
        (b'{"type":"timer","dueMs":5}', 5),
        (b'{"type":"mount","dueMs":5}', None),
        (b'{"type":"timer","dueMs":5,"n":1}', None),
        (b'{"type":"timer"}', None),
        (b"null", None),
        (b"[", None),
    ],
)
def test_due_time_is_read_from_the_args_of_a_run(args: bytes, due_ms: int | None) -> None:
    assert due_of(args) == due_ms
