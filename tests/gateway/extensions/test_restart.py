"""When the extension process is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.extensions.restart import RestartPolicy, Restarts


def test_delay_doubles_up_to_the_longest() -> None:
    restarts = Restarts(RestartPolicy(initial_s=1.0, maximum_s=5.0))

    assert [restarts.next_start_s(0.0, lived_s=0.0, chance=0.0) for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]


def test_delay_begins_anew_after_a_stable_life() -> None:
    restarts = Restarts(RestartPolicy(initial_s=1.0, maximum_s=5.0, stable_after_s=10.0))
    restarts.next_start_s(0.0, lived_s=0.0, chance=0.0)
    restarts.next_start_s(0.0, lived_s=0.0, chance=0.0)

    assert restarts.next_start_s(0.0, lived_s=10.0, chance=0.0) == 1.0


def test_delay_is_the_longest_above_the_rate_even_after_stable_lives() -> None:
    restarts = Restarts(
        RestartPolicy(initial_s=1.0, maximum_s=5.0, stable_after_s=0.0, restarts_per_minute=2)
    )

    assert [restarts.next_start_s(0.0, lived_s=1.0, chance=0.0) for _ in range(3)] == [1.0, 1.0, 5.0]
    assert restarts.next_start_s(60.0, lived_s=1.0, chance=0.0) == 61.0


@given(lives=st.lists(st.floats(0.0, 100.0), max_size=80), chance=st.floats(0.0, 1.0))
def test_delay_is_within_its_bounds_whatever_happened(lives: list[float], chance: float) -> None:
    policy = RestartPolicy()
    restarts = Restarts(policy)
    now_s = 0.0
    for lived_s in lives:
        now_s += lived_s
        delay_s = restarts.next_start_s(now_s, lived_s=lived_s, chance=chance) - now_s
        assert policy.initial_s * (1 - policy.jitter) - 1e-6 <= delay_s <= policy.maximum_s + 1e-6


@pytest.mark.parametrize(
    "numbers",
    [
        {"initial_s": 0.0},
        {"initial_s": 20.0},
        {"jitter": 2.0},
        {"restarts_per_minute": 0},
        {"stable_after_s": -1.0},
    ],
    ids=str,
)
def test_policy_refuses_numbers_that_make_no_sense(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RestartPolicy(**numbers)  # type: ignore[arg-type]
