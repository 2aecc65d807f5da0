"""Quotas: how much fuel and execution time may be used over a window, and the accounts of it. Pure.

An account is full at the start and refills steadily, a whole quota in each window. A run is let in while
anything is left, and is charged what it used when it has ended: so an account may go into debt by what is in
flight, and nothing is let in until that is paid back. Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, TypeVar

#: Accounts of one kind that are kept; a security limit. Above it one that is full is forgotten, which changes
#: nothing, or else the one that has not been looked at for longest.
MAX_ACCOUNTS: Final = 65_536
#: How many accounts are looked at for a full one.
_LOOKS: Final = 8

Resource = Literal["fuel", "time"]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """At most ``fuel`` units and ``time_ms`` milliseconds of execution in ``window_s`` seconds; 0 for no
    bound.
    """

    fuel: int = 0
    time_ms: int = 0
    window_s: float = 60.0

    @property
    def is_set(self) -> bool:
        """Whether it bounds anything."""
        return bool(self.fuel or self.time_ms)


class Shortage(NamedTuple):
    """What an account lacks: the resource, the quota (units of fuel, or milliseconds) and the window that it
    is for, and the seconds until something is left again.
    """

    resource: Resource
    limit: int
    window_s: float
    wait_s: float


class Account:
    """What is left of fuel and time (in microseconds), under the lower of two quotas each: neither what may
    be used at once nor what comes back each second is above either. ``spent``: something was used up at the
    last charge, and ``shortage`` says whether it still is.
    """

    __slots__ = (
        "_fuel",
        "_fuel_left",
        "_fuel_per_s",
        "_refilled_s",
        "_us",
        "_us_left",
        "_us_per_s",
        "own",
        "spent",
    )

    def __init__(self, own: Quota | None, ceiling: Quota, now_s: float) -> None:
        self._fuel_left = self._us_left = math.inf
        self._refilled_s = now_s
        self.spent = False
        self.limit(own, ceiling)

    def limit(self, own: Quota | None, ceiling: Quota) -> None:
        """Puts it under other quotas. What is left stays, but is not above them."""
        self.own = own
        quotas = [ceiling] if own is None else [ceiling, own]
        fuels = [quota for quota in quotas if quota.fuel]
        times = [quota for quota in quotas if quota.time_ms]
        self._fuel = min((float(quota.fuel) for quota in fuels), default=math.inf)
        self._fuel_per_s = min((quota.fuel / quota.window_s for quota in fuels), default=0.0)
        self._us = min((quota.time_ms * 1e3 for quota in times), default=math.inf)
        self._us_per_s = min((quota.time_ms * 1e3 / quota.window_s for quota in times), default=0.0)
        self._fuel_left = min(self._fuel_left, self._fuel)
        self._us_left = min(self._us_left, self._us)

    def shortage(self, now_s: float) -> Shortage | None:
        """What it lacks now; None while something of both is left."""
        self._refill(now_s)
        if self._fuel_left <= 0:
            window_s = self._fuel / self._fuel_per_s
            return Shortage("fuel", int(self._fuel), window_s, -self._fuel_left / self._fuel_per_s)
        if self._us_left <= 0:
            window_s = self._us / self._us_per_s
            return Shortage("time", int(self._us / 1e3), window_s, -self._us_left / self._us_per_s)
        self.spent = False
        return None

    def charge(self, fuel: int, time_us: int, now_s: float) -> None:
        """Takes what a run used, which may be more than is left."""
        fuel_left, us_left = self._fuel_left, self._us_left
        elapsed_s = now_s - self._refilled_s
        if elapsed_s > 0.0:  # as in _refill: this is done for every run
            self._refilled_s = now_s
            fuel_left += elapsed_s * self._fuel_per_s
            if fuel_left > self._fuel:
                fuel_left = self._fuel
            us_left += elapsed_s * self._us_per_s
            if us_left > self._us:
                us_left = self._us
        self._fuel_left = fuel_left = fuel_left - fuel
        self._us_left = us_left = us_left - time_us
        self.spent = fuel_left <= 0.0 or us_left <= 0.0

    def is_full(self, now_s: float) -> bool:
        """Whether it is as a new one would be."""
        self._refill(now_s)
        return self._fuel_left >= self._fuel and self._us_left >= self._us

    def _refill(self, now_s: float) -> None:
        elapsed_s = now_s - self._refilled_s
        if elapsed_s > 0.0:
            self._refilled_s = now_s
            left = self._fuel_left + elapsed_s * self._fuel_per_s
            self._fuel_left = min(self._fuel, left)
            left = self._us_left + elapsed_s * self._us_per_s
            self._us_left = min(self._us, left)


class Accounts(Generic[K]):
    """The accounts of one kind, by key, under ``ceiling`` and each under a quota of its own, if any.

    Bound: ``maximum`` accounts; see ``MAX_ACCOUNTS`` for what happens then. Whoever has no account has used
    nothing.
    """

    __slots__ = ("_by_key", "_maximum", "ceiling", "is_set")

    def __init__(self, ceiling: Quota, *, maximum: int = MAX_ACCOUNTS) -> None:
        self.ceiling = ceiling
        self.is_set = ceiling.is_set
        self._maximum = maximum
        self._by_key: dict[K, Account] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def shortage(self, key: K, own: Quota | None, now_s: float) -> Shortage | None:
        """What the account of ``key`` lacks; None where there is none, or nothing is lacking."""
        account = self._by_key.get(key)
        if account is None or not account.spent:
            return None
        if account.own is not own:
            account.limit(own, self.ceiling)
        return account.shortage(now_s)

    def charge(self, key: K, own: Quota | None, fuel: int, time_us: int, now_s: float) -> None:
        """Charges the account of ``key``, which is opened where there is none."""
        account = self._by_key.get(key)
        if account is None:
            if len(self._by_key) >= self._maximum:
                self._forget(now_s)
            account = self._by_key[key] = Account(own, self.ceiling, now_s)
        elif account.own is not own:
            account.limit(own, self.ceiling)
        account.charge(fuel, time_us, now_s)

    def _forget(self, now_s: float) -> None:
        by_key = self._by_key
        for _ in range(_LOOKS):
            key = next(iter(by_key))
            account = by_key.pop(key)
            if account.is_full(now_s):
                return
            by_key[key] = account  # a second chance: it is looked at again after all others
        del by_key[next(iter(by_key))]
