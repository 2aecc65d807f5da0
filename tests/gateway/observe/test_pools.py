"""What pools report, added up."""

from __future__ import annotations

from panels_gateway.observe.pools import COUNTS, LEVELS, PoolReports
from panels_shared.messages import PoolReport


def report(started: int, *, ready: int = 2, cpu_ms: int = 0) -> PoolReport:
    return PoolReport(2, ready, 1_000, started, 0, 0, cpu_ms)


def test_every_field_of_a_report_is_a_level_or_a_count() -> None:
    assert set(PoolReport.__struct_fields__) == {*LEVELS, *COUNTS}


def test_counting_begins_with_the_first_report_of_each_pool() -> None:
    reports = PoolReports()
    reports.take(b"old", report(70, cpu_ms=9_000))
    assert reports.counts["started"] == 0, "an old pool's past is not this gateway's"
    reports.take(b"old", report(72, cpu_ms=9_500))
    reports.take(b"new", report(2))
    reports.take(b"new", report(3))
    assert (reports.counts["started"], reports.counts["cpu_ms"]) == (3, 500)
    assert (reports.level("ready"), reports.level("rss_bytes")) == (4, 2_000)


def test_a_pool_that_leaves_takes_its_levels_along_and_not_what_it_counted() -> None:
    reports = PoolReports()
    reports.take(b"a", report(2))
    reports.take(b"a", report(5))
    reports.retain({b"other"})
    assert (reports.level("processes"), reports.counts["started"]) == (0, 3)
    reports.take(b"a", report(9))
    assert reports.counts["started"] == 3


def test_a_report_that_counts_less_than_the_one_before_takes_nothing_back() -> None:
    reports = PoolReports()
    for started in (5, 8, 1, 2):
        reports.take(b"a", report(started))
    assert reports.counts["started"] == 4
