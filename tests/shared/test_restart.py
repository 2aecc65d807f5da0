"""RestartPolicy and its history, by example and by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_shared.restart import RestartPolicy, Restarts


def test_restarts_replace_at_once_a_process_that_was_stable() -> None:
    restarts = Restarts(RestartPolicy())
    assert restarts.next_start_s(100.0, lived_s=50.0, chance=0.0) == 100.0


def test_restarts_double_the_delay_of_processes_that_die_young() -> None:
    restarts = Restarts(RestartPolicy(initial_s=0.1, maximum_s=0.5))
    delays = [restarts.next_start_s(0.0, lived_s=0.0, chance=0.0) for _ in range(4)]
    assert delays == [0.1, 0.2, 0.4, 0.5]


def test_restarts_begin_anew_after_a_stable_life() -> None:
    restarts = Restarts(RestartPolicy(initial_s=0.1, stable_after_s=5.0))
    restarts.next_start_s(0.0, lived_s=0.0, chance=0.0)
    restarts.next_start_s(0.0, lived_s=5.0, chance=0.0)
    assert restarts.next_start_s(0.0, lived_s=0.0, chance=0.0) == 0.1


def test_restarts_slow_down_when_there_are_too_many_in_a_minute() -> None:
    restarts = Restarts(RestartPolicy(maximum_s=2.0, restarts_per_minute=3))
    for second in range(3):
        assert restarts.next_start_s(second, lived_s=9.0, chance=0.0) == second
    assert restarts.next_start_s(3.0, lived_s=9.0, chance=0.0) == 5.0
    assert restarts.next_start_s(70.0, lived_s=9.0, chance=0.0) == 70.0


def test_restarts_that_are_not_prompt_wait_after_a_stable_life_too() -> None:
    restarts = Restarts(RestartPolicy(initial_s=1.0, maximum_s=5.0, stable_after_s=10.0, prompt=False))
    for _ in range(2):
        restarts.next_start_s(0.0, lived_s=0.0, chance=0.0)
    assert restarts.next_start_s(0.0, lived_s=10.0, chance=0.0) == 1.0


def test_restarts_that_are_not_prompt_slow_down_above_their_rate() -> None:
    restarts = Restarts(
        RestartPolicy(initial_s=1.0, maximum_s=5.0, stable_after_s=0.0, restarts_per_minute=2, prompt=False)
    )
    assert [restarts.next_start_s(0.0, lived_s=1.0, chance=0.0) for _ in range(3)] == [1.0, 1.0, 5.0]
    assert restarts.next_start_s(60.0, lived_s=1.0, chance=0.0) == 61.0


@pytest.mark.parametrize(
    "numbers",
    [
        {"initial_s": 0.0},
        {"maximum_s": 0.001},
        {"jitter": 1.5},
        {"restarts_per_minute": 0},
        {"stable_after_s": -1.0},
    ],
)
def test_policy_refuses_numbers_that_make_no_sense(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RestartPolicy(**numbers)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1)), max_size=200), st.booleans()
)
def test_restarts_stay_within_their_bounds(lives: list[tuple[float, float, float]], prompt: bool) -> None:
    policy = RestartPolicy(restarts_per_minute=5, prompt=prompt)
    least_s = 0.0 if prompt else policy.initial_s * (1 - policy.jitter)
    restarts = Restarts(policy)
    now_s = 0.0
    for pause_s, lived_s, chance in lives:
        now_s += pause_s
        at_s = restarts.next_start_s(now_s, lived_s=lived_s, chance=chance)
        assert now_s + least_s - 1e-6 <= at_s <= now_s + policy.maximum_s + 1e-6
