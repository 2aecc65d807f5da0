"""The table of calls without an answer; how the core uses it stands in ``test_core.py``."""

from __future__ import annotations

import json

import pytest

from panels_client.calls import Calls, answer, failure, trigger
from panels_client.errors import TooManyError
from panels_client.messages import ErrorMessage
from panels_client.options import Options

OPTIONS = Options(max_calls=3, window=2, max_sent_bytes=200)


def table(*keys: str, deadline: float | None = None) -> Calls:
    calls = Calls(OPTIONS)
    for key in keys:
        calls.add(trigger(key, "t", None, options=OPTIONS, deadline=deadline))
    return calls


def sent(calls: Calls, flow: int, now: float = 0.0) -> list[str]:
    return [call.key for call in calls.to_send(flow, "e", now)]


def test_calls_are_bounded_and_have_keys_of_their_own() -> None:
    calls = table("a", "b")
    with pytest.raises(ValueError, match="no call waits under"):
        calls.add(trigger("a", "t", None, options=OPTIONS, deadline=None))
    calls.add(answer("c", "s", 1, options=OPTIONS, deadline=None))
    with pytest.raises(TooManyError):
        calls.add(trigger("d", "t", None, options=OPTIONS, deadline=None))
    assert (len(calls), [each.key for each in calls.pending()]) == (3, ["a", "b", "c"])
    with pytest.raises(ValueError, match="200 bytes"):
        answer("e", "s", "x" * 200, call=1, options=OPTIONS, deadline=None)


def test_each_flow_is_sent_all_that_waits_in_order_within_the_window() -> None:
    calls = table("a", "b", "c")
    assert (sent(calls, 1), sent(calls, 1)) == (["a", "b"], [])
    calls.take("a")
    assert sent(calls, 1) == ["c"]
    assert sent(calls, 2) == ["b", "c"]
    assert [each.sends for each in calls.pending()] == [2, 2]


def test_held_call_is_sent_when_its_time_has_come() -> None:
    calls = table("a")
    sent(calls, 1)
    sent(calls, 2)
    call, error = calls.get("a"), ErrorMessage("a", "OVERLOADED", "", None, 1_000)
    assert call is not None
    assert calls.may_wait(call, error)
    assert not calls.may_wait(call, ErrorMessage("a", "FORBIDDEN", "", None, None))
    calls.hold(call, error, 10.0)
    assert (calls.wakes_at(), sent(calls, 2, 10.9), sent(calls, 2, 11.0)) == (11.0, [], ["a"])
    assert failure(call, error).ran is None


def test_expired_calls_are_taken_and_answered_ones_leave_no_timers() -> None:
    calls = table("a", deadline=5.0)
    assert calls.wakes_at() == 5.0
    assert calls.expired(4.9) == []
    assert [call.key for call in calls.expired(5.0)] == ["a"]
    for number in range(500):
        calls.add(trigger(f"k{number}", "t", None, options=OPTIONS, deadline=1e9))
        calls.take(f"k{number}")
    assert len(calls._timers) < 100
    assert calls.wakes_at() is None


def test_calls_of_another_epoch_or_too_old_are_unanswerable() -> None:
    calls = table("a", "b", "c")
    sent(calls, 1)
    assert calls.unanswerable("e", lost=False, now=1.0) == []
    assert [call.key for call, _ in calls.unanswerable("e", lost=False, now=1e6)] == ["a", "b"]
    assert calls.unanswerable("f", lost=True, now=1e6) == []
    assert calls.largest_sent() is None
    assert [call.key for call in calls] == ["c"]


def test_trigger_says_which_version_it_expects() -> None:
    plain = trigger("a", "t", None, options=OPTIONS, deadline=None)
    assert "expectedSeq" not in json.loads(plain.text)
    for seq in (0, 7):
        made = trigger("a", "t", None, options=OPTIONS, deadline=None, expected_seq=seq)
        assert json.loads(made.text)["expectedSeq"] == seq
