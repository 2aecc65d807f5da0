"""A log that others write through what they do: so many lines, and then how many more there were.

A line costs the gateway's one thread some 20 to 50 µs and the disk its bytes, so whoever can cause lines must
not be able to cause many.

Queue: none. Unit: lines. Bound: a token bucket. Overflow policy: lines are dropped and counted, and the next
one that is written is preceded by their number.
"""

from __future__ import annotations

import logging
from typing import Final

from panels_shared.rate import RateLimit, TokenBucket

#: Lines a second in the long run, and at once.
LINES: Final = RateLimit(per_s=5.0, burst=50)


class RateLimitedLog:
    """Writes to ``logger``. Times are monotonic seconds."""

    __slots__ = ("_bucket", "_limit", "_logger", "suppressed")

    def __init__(self, logger: logging.Logger, limit: RateLimit = LINES) -> None:
        self._logger = logger
        self._limit = limit
        self._bucket: TokenBucket | None = None
        self.suppressed = 0

    def log(self, now_s: float, level: int, text: str, *values: object, **fields: object) -> None:
        """Writes one line, formatted as ``logging`` does, unless there have been too many. ``fields`` stand
        beside the text: see ``panels_shared.loglines.FIELDS``.
        """
        if not self._logger.isEnabledFor(level):
            return
        bucket = self._bucket
        if bucket is None:
            bucket = self._bucket = TokenBucket(self._limit, now_s)
        if bucket.take(now_s) > 0:
            self.suppressed += 1
            return
        if self.suppressed:
            self._logger.log(level, "%d more lines like the following were suppressed", self.suppressed)
            self.suppressed = 0
        self._logger.log(level, text, *values, extra=fields)
