"""A log that cannot be made to grow by who causes its lines."""

from __future__ import annotations

import logging

import pytest

from panels_gateway.observe.rate_limited import RateLimitedLog
from panels_shared.rate import RateLimit

LIMIT = RateLimit(per_s=1.0, burst=2)


def test_lines_above_the_limit_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logging.getLogger("limited"), LIMIT)
    with caplog.at_level(logging.INFO):
        for number in range(10):
            log.log(1.0, logging.INFO, "line %d", number)
        log.log(2.0, logging.INFO, "line %d", 10)
    assert [record.getMessage() for record in caplog.records] == [
        "line 0",
        "line 1",
        "8 more lines like the following were suppressed",
        "line 10",
    ]
    assert log.suppressed == 0


def test_lines_that_nobody_writes_take_nothing() -> None:
    logger = logging.getLogger("limited.quiet")
    logger.setLevel(logging.ERROR)
    log = RateLimitedLog(logger, LIMIT)
    for _ in range(10):
        log.log(1.0, logging.INFO, "line")
    assert log.suppressed == 0
