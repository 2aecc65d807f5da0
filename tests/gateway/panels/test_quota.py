"""Quotas: what an account lets through, when it is refilled, and which accounts are forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.panels.quota import Account, Accounts, Quota

NONE = Quota()
FUEL = Quota(fuel=100, window_s=10)


def test_account_lets_through_while_anything_is_left_and_then_says_when_it_will_again() -> None:
    account = Account(None, FUEL, 0.0)
    account.charge(99, 5, 0.0)
    assert account.shortage(0.0) is None
    account.charge(51, 5, 0.0)
    shortage = account.shortage(0.0)
    assert shortage == ("fuel", 100, 10.0, 5.0), "50 units of debt at 10 a second"
    assert account.shortage(4.9) is not None
    assert account.shortage(5.1) is None


def test_account_that_is_exactly_used_up_lacks_something() -> None:
    account = Account(None, FUEL, 0.0)
    account.charge(100, 0, 0.0)
    shortage = account.shortage(0.0)
    assert shortage is not None
    assert shortage.wait_s == 0.0


def test_account_counts_time_in_milliseconds() -> None:
    account = Account(None, Quota(time_ms=20, window_s=10), 0.0)
    account.charge(10**12, 20_000, 0.0)
    assert account.shortage(0.0) == ("time", 20, 10.0, 0.0)
    account.charge(0, 2_000, 0.0)
    assert account.shortage(0.5) == ("time", 20, 10.0, 0.5)


def test_account_is_under_the_lower_of_two_quotas_at_once_and_in_the_long_run() -> None:
    account = Account(Quota(fuel=1_000, window_s=1), FUEL, 0.0)
    account.charge(100, 0, 0.0)
    assert account.shortage(0.0) is not None, "the ceiling bounds what may be used at once"
    account.charge(100, 0, 0.0)
    assert account.shortage(9.0) is not None, "and what comes back"
    own = Account(Quota(fuel=50, window_s=1), FUEL, 0.0)
    own.charge(50, 0, 0.0)
    assert own.shortage(0.0) == ("fuel", 50, 5.0, 0.0), "10 a second are the ceiling's"


def test_accounts_follow_a_quota_that_changes() -> None:
    accounts: Accounts[str] = Accounts(FUEL)
    accounts.charge("a", None, 40, 0, 0.0)
    lower = Quota(fuel=10, window_s=10)
    assert accounts.shortage("a", lower, 0.0) is None
    accounts.charge("a", None, 0, 0, 0.0)
    accounts.charge("a", lower, 10, 0, 0.0)
    assert accounts.shortage("a", lower, 0.0) is not None, "60 were left, of which 10 may be used"


def test_accounts_keep_keys_apart_and_know_nothing_of_who_used_nothing() -> None:
    accounts: Accounts[str] = Accounts(FUEL)
    accounts.charge("a", None, 200, 0, 0.0)
    assert accounts.shortage("a", None, 0.0) is not None
    assert accounts.shortage("b", None, 0.0) is None
    assert len(accounts) == 1


def test_accounts_forget_a_full_one_before_one_in_debt() -> None:
    accounts: Accounts[str] = Accounts(FUEL, maximum=3)
    accounts.charge("debtor", None, 10_000, 0, 0.0)
    accounts.charge("full", None, 1, 0, 0.0)
    accounts.charge("other", None, 10_000, 0, 0.0)
    accounts.charge("new", None, 1, 0, 60.0)
    assert len(accounts) == 3
    assert accounts.shortage("debtor", None, 60.0) is not None
    assert accounts.shortage("other", None, 60.0) is not None


def test_accounts_stay_within_their_bound_where_none_is_full() -> None:
    accounts: Accounts[int] = Accounts(FUEL, maximum=3)
    for number in range(50):
        accounts.charge(number, None, 10_000, 0, 0.0)
        assert len(accounts) <= 3
        assert accounts.shortage(number, None, 0.0) is not None, "the newest is kept"


def test_clock_that_goes_back_adds_nothing() -> None:
    account = Account(None, FUEL, 100.0)
    account.charge(150, 0, 100.0)
    assert account.shortage(50.0) == ("fuel", 100, 10.0, 5.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 80)), max_size=60))
def test_used_is_never_more_than_quota_refill_and_one_run(steps: list[tuple[float, int]]) -> None:
    account, now, used = Account(None, FUEL, 0.0), 0.0, 0
    for wait_s, fuel in steps:
        now += wait_s
        if account.shortage(now) is None:
            account.charge(fuel, 0, now)
            used += fuel
        assert used <= 100 + 10 * now + 80 + 1e-6


@pytest.mark.parametrize("quota", [NONE, Quota(fuel=1), Quota(time_ms=1)])
def test_quota_says_whether_it_bounds_anything(quota: Quota) -> None:
    assert quota.is_set == (quota is not NONE)
