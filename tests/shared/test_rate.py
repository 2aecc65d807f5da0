"""The token bucket, on a manual clock."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from panels_shared.rate import RateLimit, TokenBucket

TWO_A_SECOND = RateLimit(per_s=2.0, burst=3)


def test_bucket_gives_its_burst_at_once_and_then_says_how_long_to_wait() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_bucket_gives_again_after_the_wait_that_it_named() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 0.0)
    bucket.take(0.0, 3)
    wait_s = bucket.take(0.0, 2)
    assert wait_s == 1.0
    assert bucket.take(wait_s - 0.01, 2) > 0.0
    assert bucket.take(wait_s, 2) == 0.0


def test_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 0.0)
    assert bucket.take(1_000_000.0, 3) == 0.0
    assert bucket.take(1_000_000.0) == 0.5


def test_bucket_says_that_more_than_its_burst_never_comes() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 0.0)
    assert bucket.take(100.0, 4) == math.inf
    assert bucket.take(100.0, 3) == 0.0


def test_bucket_gives_nothing_for_a_clock_that_goes_back() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 100.0)
    bucket.take(100.0, 3)
    assert bucket.take(50.0) == 0.5
    assert bucket.take(50.5) == 0.0


def test_bucket_without_a_rate_gives_without_end() -> None:
    bucket = TokenBucket(RateLimit(), 0.0)
    assert {bucket.take(0.0, 10**9) for _ in range(100)} == {0.0}


def test_bucket_spends_what_it_was_seen_to_have() -> None:
    bucket = TokenBucket(TWO_A_SECOND, 0.0)
    assert bucket.has(3)
    assert not bucket.has(4)
    bucket.spend(3)
    bucket.refill(0.5)
    assert (bucket.has(1), bucket.has(2)) == (True, False)


@given(
    st.integers(1, 20),
    st.floats(0.5, 50.0),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 5)), max_size=50),
)
def test_bucket_never_gives_more_than_burst_and_rate_allow(
    burst: int, per_s: float, asked: list[tuple[float, int]]
) -> None:
    bucket = TokenBucket(RateLimit(per_s=per_s, burst=burst), 0.0)
    now_s, given_units = 0.0, 0
    for pause_s, units in asked:
        now_s += pause_s
        if bucket.take(now_s, units) == 0.0:
            given_units += units
        assert given_units <= burst + now_s * per_s + 1e-6
