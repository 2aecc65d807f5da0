from __future__ import annotations

import pytest

from panels_shared.errors import CODES, Code, LimitError
from panels_shared.limits import DEFAULT_LIMITS, DEFAULT_MAXIMA, Limits
from panels_shared.liveness import Liveness


def test_limits_clamp_to_maxima_field_by_field() -> None:
    clamped = Limits(fuel=10, deadline_ms=9_000).clamp(Limits(fuel=5, deadline_ms=10_000))
    assert (clamped.fuel, clamped.deadline_ms) == (5, 9_000)


def test_limits_refuse_what_is_not_positive() -> None:
    with pytest.raises(LimitError, match="fuel of at least 1, got 0"):
        Limits(fuel=0)


def test_limits_defaults_lie_within_the_maxima() -> None:
    assert DEFAULT_LIMITS.clamp(DEFAULT_MAXIMA) == DEFAULT_LIMITS


def test_every_code_has_its_row_in_the_table() -> None:
    assert set(CODES) == set(Code)


def test_liveness_loses_a_silent_peer_after_its_misses() -> None:
    liveness = Liveness(10.0, interval_s=0.5, misses=4)
    assert not liveness.lost(11.9)
    assert liveness.lost(12.0)
    liveness.heard(11.0)
    assert not liveness.lost(12.5)
    assert liveness.lost_at_s == 13.0
