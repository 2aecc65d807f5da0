"""What a call sends, and how a failure is told."""

from __future__ import annotations

import pytest

from panels_cli.calling import MAX_WAIT_S, body_of, explained, wait_s
from panels_cli.faults import RefusedError, UsageError


def test_arguments_are_sent_as_they_were_written() -> None:
    assert body_of(None) is None
    assert body_of(b' {"a":  1.0}\n') == b'{"args":{"a":  1.0}}'
    with pytest.raises(UsageError, match="as JSON"):
        body_of(b"{x")


def test_waits_grow_to_a_bound() -> None:
    waits = [wait_s(attempt, chance=1.0) for attempt in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_WAIT_S


def test_failure_says_where_and_how_much_stays() -> None:
    details = {"reason": "TIMEOUT", "location": {"line": 2}, "snippet": "a\nb", "steps": 2}
    error = explained("p", "t", RefusedError("EXECUTION_ERROR", "m", details))
    assert (
        str(error)
        == "t of p failed at line 2: m (EXECUTION_ERROR); the reason is TIMEOUT; 2 earlier steps stay"
    )
    assert error.appendix == ("a", "b")
    other = RefusedError("FORBIDDEN", "m")
    assert explained("p", "t", other) is other
    assert explained("p", "t", RefusedError("EXECUTION_ERROR", "m")).appendix == ()
