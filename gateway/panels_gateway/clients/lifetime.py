"""How long a client's token holds: when to warn the client, and when to close its socket. Without I/O.

    ┌ start, renew ┐            ┌ warning_s before ┐           ┌ exp ┐
    │              │ ─────────▶ │ warn, once       │ ────────▶ │ end │
    └──────────────┘            └──────────────────┘           └─────┘

One timer of the event loop for each client. It is asked to look at the next of these times; since that is
a time of the wall clock, which may be set, and a timer counts the seconds of another clock, it looks at least
every ``MAX_SLEEP_S`` and goes by the wall clock alone. The end never comes before ``exp``, and after it only
by as much as the loop is late.

A token that has less than ``warning_s`` left when its client comes, or when it is renewed, gets no warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

#: After a clock was set, ends are late by at most so many seconds.
MAX_SLEEP_S: Final = 60.0
#: A timer may fire a little early; it is then asked to look again after so many seconds.
_LEAST_SLEEP_S: Final = 0.001


class Timer(Protocol):
    """What the event loop gives for a call that comes later."""

    def cancel(self) -> None:
        """The call does not come."""


class Lifetime:
    """See the module's docstring. All times are Unix seconds.

    ``warn`` is called with ``expires_at``, ``end`` once and last.
    """

    __slots__ = (
        "_call_later",
        "_clock",
        "_end",
        "_expires_at",
        "_timer",
        "_warn",
        "_warn_at",
        "_warning_s",
    )

    def __init__(
        self,
        expires_at: float | None,
        *,
        warning_s: float,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], Timer],
        warn: Callable[[float], None],
        end: Callable[[], None],
    ) -> None:
        """``expires_at`` None: the token holds for ever. ``warning_s`` 0: no warning."""
        self._warning_s = warning_s
        self._clock = clock
        self._call_later = call_later
        self._warn = warn
        self._end = end
        self._timer: Timer | None = None
        self._expires_at: float | None = None
        self._warn_at: float | None = None
        self.renew(expires_at)

    def renew(self, expires_at: float | None) -> None:
        """The client has another token, which holds until ``expires_at``."""
        self.stop()
        self._expires_at = expires_at
        self._warn_at = None
        if expires_at is None:
            return
        if self._warning_s and expires_at - self._clock() > self._warning_s:
            self._warn_at = expires_at - self._warning_s
        self._look()

    def stop(self) -> None:
        """Nothing comes any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        expires_at = self._expires_at
        assert expires_at is not None
        now = self._clock()
        if now >= expires_at:
            self._end()
            return
        if self._warn_at is not None and now >= self._warn_at:
            self._warn_at = None
            self._warn(expires_at)
        following = self._warn_at if self._warn_at is not None else expires_at
        self._timer = self._call_later(min(max(following - now, _LEAST_SLEEP_S), MAX_SLEEP_S), self._look)
