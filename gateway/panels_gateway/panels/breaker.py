"""A circuit breaker: slows down one tool that keeps failing, so that it does not keep its workers. Pure.

    state     admit(now)                  failed                     succeeded    elapsed
    closed    runs                        counted; open at the       count 0      closed
                                          bound of failures
    open      a probe runs when the       of the probe: open for     closed       open
              back-off is over, else      twice as long; of others
              refused                     that ran before: ignored

A probe that is never heard of again (its panel was replaced, a queue was full) costs nothing: after another
back-off the next one is let through. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """A tool is suspended after ``failures`` in a row (0: never), for ``backoff_s`` seconds at first and
    twice as long after each probe that fails, up to ``max_backoff_s``.
    """

    failures: int = 10
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0


class Breaker:
    """See the module's docstring. ``digest`` is the handler that it is about: another one begins anew.

    ``failures`` counts those in a row, and ``until_s`` is when the next probe may run, 0.0 while closed.
    """

    __slots__ = ("__weakref__", "_backoff_s", "_limits", "_probe", "digest", "failures", "until_s")

    def __init__(self, limits: BreakerLimits, digest: bytes) -> None:
        self._limits = limits
        self._backoff_s = 0.0
        self._probe: object = None
        self.digest = digest
        self.failures = 0
        self.until_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the tool is suspended."""
        return self._backoff_s > 0.0

    def admit(self, run: object, now_s: float) -> float:
        """0.0 if ``run`` may be run, as the probe if the breaker is open; else the seconds until one may."""
        if not self.is_open:
            return 0.0
        if now_s < self.until_s:
            return self.until_s - now_s
        self._probe = run
        self.until_s = now_s + self._backoff_s
        return 0.0

    def failed(self, run: object, now_s: float) -> bool:
        """``run`` failed. True if that opened the breaker, which was closed."""
        limits = self._limits
        if not self.is_open:
            self.failures += 1
            if self.failures < limits.failures:
                return False
            self._backoff_s = limits.backoff_s
            self.until_s = now_s + self._backoff_s
            return True
        if run is self._probe:
            self._probe = None
            self.failures += 1
            self._backoff_s = min(limits.max_backoff_s, 2 * self._backoff_s)
            self.until_s = now_s + self._backoff_s
        return False
