"""Errors say what happened, and can be told apart."""

from __future__ import annotations

from panels_client import errors


def test_errors_carry_what_one_needs_to_go_on() -> None:
    error = errors.CallError("OVERLOADED", "full", {"a": 1}, ran=False, retry_after_ms=5)
    assert (str(error), error.ran, error.retry_after_ms) == ("OVERLOADED: full", False, 5)
    late = errors.CallTimeoutError("k", "why", sent=False)
    assert isinstance(late, TimeoutError)
    assert (late.key, late.sent) == ("k", False)
    closed = errors.ClosedError("forbidden", "403")
    assert (closed.reason, str(closed)) == ("forbidden", "the client has ended: forbidden (403)")
    assert all(issubclass(each, errors.PanelsClientError) for each in (errors.TooManyError, type(late)))
