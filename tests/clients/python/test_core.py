"""The core by examples; ``test_core_model.py`` has it meet a model of the gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest

from panels_client import calls
from panels_client.core import MAX_ADVICE_S, Phase
from panels_client.errors import (
    CallError,
    CallTimeoutError,
    ClosedError,
    OutcomeUnknownError,
    TooManyError,
)
from panels_client.instructions import (
    Attended,
    Changed,
    Connect,
    Drop,
    FetchToken,
    Happened,
    Noted,
    Noticed,
    Report,
)
from panels_client.messages import Presence
from panels_client.options import Options
from tests.clients.python.driving import OPTIONS, Driver


def patch(seq: int, key: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "PATCH", "mutations": [{"op": "set", "key": key, "value": value}], "seq": seq, **more}


# -- state -------------------------------------------------------------------------------------------


def test_patch_and_position_change_before_anything_is_told() -> None:
    driver = Driver()
    driver.live({"n": 1}, seq=3)
    driver.done.clear()
    driver.hear(patch(4, "n", 2))
    assert (driver.core.replica.position, driver.core.replica.view.shown["n"]) == (4, 2)
    assert driver.of(Changed) == [Changed(frozenset({"n"}))]


def test_late_message_of_a_dead_connection_changes_nothing() -> None:
    driver = Driver()
    driver.live({"n": 1})
    dead = driver.core.flow
    driver.lose()
    driver.hear(patch(1, "n", 2), flow=dead)
    driver.recovered()
    driver.hear(patch(1, "n", 3), flow=dead)
    driver.take(driver.core.lost(dead, 4404, "", driver.now))
    driver.take(driver.core.refused(dead, 403, "", driver.now))
    driver.take(driver.core.token(dead, "x", driver.now))
    assert driver.core.replica.position == 0
    assert driver.core.replica.view.shown["n"] == 1
    assert driver.core.status == "live"


@pytest.mark.parametrize(
    "lie",
    [
        patch(9, "n", 9),
        patch(2, "n", 9),
        patch(4, "n", 9, prevSeq=4),
        {"type": "CONNECTED", "seq": 3, "epoch": "e", "state": {}},
        {"type": "PATCH", "seq": 4},
        {"type": "PATCH", "seq": True, "mutations": []},
        {"type": "PATCH", "seq": 4, "mutations": [{"op": "add", "key": "n"}]},
        {"type": "RESULT", "seq": -1, "result": {}},
        {"no": "type"},
        "[" * 100_000,
        "NaN",
        "9" * 5_000,
        b"binary",
    ],
    ids=lambda lie: str(lie)[:40],
)
def test_server_that_lies_is_left_and_asked_for_everything(lie: dict[str, Any] | str | bytes) -> None:
    driver = Driver()
    driver.live({"n": 1}, seq=3)
    driver.hear(lie)
    assert driver.core.status == "reconnecting"
    assert driver.of(Drop) == [Drop(1, 1002)]
    assert driver.open() == {"epoch": "e", "since": "none"}
    driver.hear({"type": "CONNECTED", "seq": 3, "epoch": "e", "state": {"n": 1}})
    assert [each.notice.kind for each in driver.of(Noticed)] == ["resynced"]


@pytest.mark.parametrize(
    "first",
    [
        patch(1, "n", 1),
        {"type": "CONNECTED", "seq": 0, "epoch": "e"},
        {"type": "CONNECTED", "seq": 0, "epoch": "e" * 65, "state": {}},
        {"type": "CONNECTED", "seq": 0, "epoch": "e", "recovered": True},
        {"type": "CONNECTED", "seq": 0, "epoch": "e", "recovered": True, "state": {}},
        {"type": "PONG"},
    ],
    ids=str,
)
def test_connection_begins_with_a_connected_that_can_be(first: dict[str, Any]) -> None:
    driver = Driver()
    driver.open()
    driver.hear(first)
    assert (driver.core.status, driver.core.phase) == ("connecting", Phase.WAITING)
    assert driver.open() == {}


def test_server_that_always_lies_is_asked_ever_more_seldom() -> None:
    driver = Driver()
    pauses = []
    for _ in range(12):
        driver.live()
        driver.hear("lie")
        wakes_at = driver.core.wakes_at()
        assert wakes_at is not None
        pauses.append(wakes_at - driver.now)
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert pauses[-1] == OPTIONS.backoff_max_s


def test_unknown_messages_and_fields_are_ignored() -> None:
    driver = Driver()
    driver.live()
    driver.hear({"type": "NEWS", "seq": "x"}, patch(1, "a", 1, color="red"))
    assert driver.core.replica.position == 1
    assert driver.core.status == "live"


def test_presence_is_what_was_heard_of_it() -> None:
    driver = Driver()
    driver.live()
    assert driver.core.presence == Presence()
    driver.hear({"type": "PRESENCE", "clients": 4, "subjects": {"ada": 2, "__proto__": 1}, "whole": True})
    driver.hear({"type": "PRESENCE", "clients": 3, "subjects": {"ada": 0, "bob": 1}})
    driver.hear({"type": "PRESENCE", "clients": 1, "subjects": {"cäsar": 1}, "whole": True})
    assert [(seen.presence.clients, dict(seen.presence.subjects)) for seen in driver.of(Attended)] == [
        (4, {"ada": 2, "__proto__": 1}),
        (3, {"bob": 1, "__proto__": 1}),
        (1, {"cäsar": 1}),
    ]
    assert driver.core.presence.clients == 1
    assert driver.core.replica.position == 0


@pytest.mark.parametrize(
    "lie",
    [
        {"type": "PRESENCE", "subjects": {}},
        {"type": "PRESENCE", "clients": 1, "subjects": []},
        {"type": "PRESENCE", "clients": 1, "subjects": {"ada": "two"}},
        {"type": "PRESENCE", "clients": -1, "subjects": {}},
    ],
)
def test_presence_that_cannot_be_ends_the_connection_and_not_the_client(lie: dict[str, Any]) -> None:
    driver = Driver()
    driver.live()
    driver.hear(lie)
    assert driver.core.status == "reconnecting"
    assert driver.core.presence == Presence()


def test_event_that_was_heard_before_the_cut_is_not_told_twice() -> None:
    driver = Driver()
    driver.live()
    event = {"type": "EVENT", "event": {"name": "e", "payload": 1, "timestamp": 5}, "seq": 1}
    driver.hear({**event, "more": True})
    driver.lose()
    driver.recovered(seq=1)
    driver.hear({**event, "more": True}, event)
    assert [each.event.name for each in driver.of(Happened)] == ["e", "e"]
    assert driver.core.replica.position == 1


# -- calls -------------------------------------------------------------------------------------------


def test_unanswered_call_is_sent_again_with_the_same_bytes_and_settled_once() -> None:
    driver = Driver()
    driver.live()
    key = driver.call("add", {"by": 1})
    driver.lose()
    driver.recovered()
    first, again = driver.sent()
    assert first == again == {
        "type": "TRIGGER", "tool": "add", "requestId": key, "idempotencyKey": key, "args": {"by": 1}
    }  # fmt: skip
    driver.result(key, 7)
    driver.result(key, 8)
    assert driver.outcomes()[key].value == 7
    assert driver.core.pending() == ()


def test_call_while_away_waits_for_the_connection() -> None:
    driver = Driver()
    driver.tick()
    key = driver.call()
    assert driver.sent() == []
    driver.live()
    assert [each["requestId"] for each in driver.sent()] == [key]


def test_answer_on_a_connection_on_which_nothing_was_asked_is_ignored() -> None:
    driver = Driver()
    driver.live()
    driver.result("nobody")
    assert driver.core.status == "live"
    assert driver.outcomes() == {}


@pytest.mark.parametrize(
    ("code", "ran"), [("EXECUTION_ERROR", True), ("OVERLOADED", False), ("INTERNAL", None)]
)
def test_error_says_whether_the_handler_ran(code: str, ran: bool | None) -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.error(key, code, details={"reason": "X"}, retryAfterMs=30)
    outcome = driver.outcomes()[key]
    assert isinstance(outcome, CallError)
    assert (outcome.code, outcome.ran, outcome.details) == (code, ran, {"reason": "X"})
    assert outcome.retry_after_ms == 30


def test_refusal_of_a_second_copy_is_no_answer_to_the_first() -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.lose()
    driver.recovered()
    driver.error(key, "OVERLOADED", retryAfterMs=500)
    assert driver.outcomes() == {}
    driver.tick(0.4)
    assert len(driver.sent()) == 2
    driver.tick(0.2)
    assert len(driver.sent()) == 3
    driver.result(key, "once")
    assert driver.outcomes()[key].value == "once"


def test_call_to_a_panel_that_was_made_anew_is_not_sent_again() -> None:
    driver = Driver()
    driver.live()
    sent = driver.call()
    driver.lose()
    unsent = driver.call()
    driver.live(epoch="f")
    assert isinstance(driver.outcomes()[sent], OutcomeUnknownError)
    assert [each["requestId"] for each in driver.sent()] == [sent, unsent]
    assert [each.notice.kind for each in driver.of(Noticed)] == ["lost"]


def test_call_that_is_older_than_its_key_is_not_sent_again() -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.lose()
    driver.tick(OPTIONS.key_lifetime_s + 1)
    driver.take(driver.core.opened(driver.core.flow, driver.now))
    driver.hear({"type": "CONNECTED", "seq": 0, "epoch": "e", "recovered": True})
    assert isinstance(driver.outcomes()[key], OutcomeUnknownError)


def test_panel_that_is_deleted_ends_the_client_and_its_calls() -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.lose(4404)
    assert driver.core.status == "closed"
    outcome = driver.outcomes()[key]
    assert isinstance(outcome, ClosedError)
    assert outcome.reason == "panel_deleted"
    with pytest.raises(ClosedError):
        driver.call()
    assert driver.core.wakes_at() is None


def test_call_times_out_and_its_late_answer_is_ignored() -> None:
    driver = Driver()
    driver.live()
    key = driver.call(timeout=2.0)
    driver.tick(1.9)
    assert driver.outcomes() == {}
    driver.tick(0.2)
    outcome = driver.outcomes()[key]
    assert isinstance(outcome, CallTimeoutError)
    assert outcome.sent
    driver.result(key)
    assert len(driver.outcomes()) == 1


def test_calls_are_bounded_and_sent_within_the_window() -> None:
    driver = Driver(options=Options(max_calls=4, window=2))
    driver.live()
    keys = [driver.call() for _ in range(4)]
    with pytest.raises(TooManyError):
        driver.call()
    assert [each["requestId"] for each in driver.sent()] == keys[:2]
    driver.result(keys[0])
    assert [each["requestId"] for each in driver.sent()] == keys[:3]
    progress = {"type": "PROGRESS", "requestId": keys[1], "suspensionId": "s", "status": "suspended"}
    driver.hear({**progress, "extension": "human", "method": "ask"})
    assert [each["requestId"] for each in driver.sent()] == keys
    assert [(each.key, each.progress.method) for each in driver.of(Report)] == [(keys[1], "ask")]


def test_frame_that_the_server_finds_too_large_fails_its_call_and_no_other() -> None:
    driver = Driver()
    driver.live()
    small, large = driver.call(), driver.call(args="x" * 1_000)
    driver.lose(1009)
    driver.recovered()
    driver.result(small, 1)
    outcome = driver.outcomes()[large]
    assert isinstance(outcome, CallError)
    assert outcome.code == "TOO_LARGE"
    assert driver.outcomes()[small].value == 1


def test_forgotten_call_is_not_sent_again() -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.take(driver.core.forget(key, driver.now))
    driver.lose()
    driver.recovered()
    assert len(driver.sent()) == 1
    assert driver.outcomes() == {}


def test_answer_is_answered() -> None:
    driver = Driver()
    driver.live()
    made = calls.answer("a", "s1", True, call=2, options=OPTIONS, deadline=None)
    driver.take(driver.core.call(made, driver.now))
    expected = {"type": "ANSWER", "suspensionId": "s1", "value": True, "requestId": "a", "call": 2}
    assert driver.sent() == [expected]
    driver.hear({"type": "ANSWERED", "requestId": "a", "suspensionId": "s1"})
    assert driver.outcomes()["a"].value is None


# -- optimism ----------------------------------------------------------------------------------------


def test_what_is_expected_is_shown_at_once_and_never_flickers() -> None:
    driver = Driver()
    driver.live({"n": 0})
    shown = driver.core.replica.view.shown
    seen: list[Any] = []
    one = driver.call(expects={"n": 1})
    seen.append(shown["n"])
    two = driver.call(expects={"n": 2})
    seen.append(shown["n"])
    driver.hear(patch(1, "n", 1))
    seen.append(shown["n"])
    driver.result(one, seq=1)
    seen.append(shown["n"])
    driver.hear(patch(2, "n", 2))
    seen.append(shown["n"])
    driver.result(two, seq=2)
    seen.append(shown["n"])
    assert seen == [1, 2, 2, 2, 2, 2]


def test_what_was_expected_in_vain_goes_with_the_error() -> None:
    driver = Driver()
    driver.live({"n": 0})
    key = driver.call(expects={"n": 1})
    driver.lose()
    driver.live({"n": 5}, seq=5)
    assert driver.core.replica.view.shown["n"] == 1
    driver.error(key, "EXECUTION_ERROR")
    assert driver.core.replica.view.shown["n"] == 5
    assert driver.of(Changed)[-1] == Changed(frozenset({"n"}))


# -- attempts ----------------------------------------------------------------------------------------


def test_pauses_grow_and_a_stable_connection_begins_them_anew() -> None:
    driver = Driver()
    pauses = []
    for _ in range(10):
        driver.wake()
        driver.lose()
        pauses.append((driver.core.wakes_at() or 0) - driver.now)
    assert pauses == pytest.approx([min(30.0, 0.1 * 2**n) for n in range(10)])
    driver.live()
    driver.tick(OPTIONS.stable_after_s)
    driver.lose()
    assert (driver.core.wakes_at() or 0) - driver.now == pytest.approx(0.1)


def test_restarts_that_the_gateway_tells_of_are_no_failures() -> None:
    driver = Driver()
    for _ in range(8):
        driver.live()
        driver.lose(1012, "retry in 90 ms")
        assert (driver.core.wakes_at() or 0) - driver.now == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (None, "reconnecting", None),
        (1001, "reconnecting", None),
        (1012, "reconnecting", None),
        (4999, "reconnecting", None),
        (4403, "closed", "forbidden"),
        (4404, "closed", "panel_deleted"),
        (4450, "closed", "refused"),
        (4401, "closed", "unauthorized"),
    ],
)
def test_close_code_decides_what_comes_next(code: int | None, status: str, reason: str | None) -> None:
    driver = Driver(token="fixed")
    driver.live()
    driver.lose(code)
    assert driver.core.status == status
    assert (driver.core.closed and driver.core.closed.reason) == reason


@pytest.mark.parametrize(
    ("http", "status", "reason"),
    [
        (400, "closed", "refused"),
        (401, "closed", "unauthorized"),
        (403, "closed", "forbidden"),
        (404, "closed", "panel_not_found"),
        (429, "connecting", None),
        (502, "connecting", None),
        (503, "connecting", None),
    ],
)
def test_refusal_of_the_upgrade_decides_what_comes_next(http: int, status: str, reason: str | None) -> None:
    driver = Driver(token="fixed")
    driver.tick()
    driver.take(driver.core.refused(driver.core.flow, http, "", driver.now, retry_after_s=7.0))
    assert driver.core.status == status
    assert (driver.core.closed and driver.core.closed.reason) == reason
    if reason is None:
        assert driver.core.wakes_at() == driver.now + 7.0


def test_advice_to_come_back_next_year_is_not_followed() -> None:
    driver = Driver()
    driver.tick()
    driver.take(driver.core.refused(driver.core.flow, 503, "", driver.now, retry_after_s=1e8))
    assert driver.core.wakes_at() == driver.now + MAX_ADVICE_S


def test_attempt_that_hangs_is_given_up() -> None:
    driver = Driver()
    driver.tick()
    driver.tick(OPTIONS.connect_timeout_s)
    assert (driver.core.phase, driver.of(Drop)) == (Phase.WAITING, [Drop(1, 1001)])
    driver.open()
    driver.tick(OPTIONS.connect_timeout_s)
    assert driver.core.phase is Phase.WAITING


# -- tokens ------------------------------------------------------------------------------------------


def with_token(driver: Driver, text: str) -> None:
    while driver.core.phase is Phase.WAITING:
        driver.wake()
    assert driver.core.phase is Phase.TOKEN
    driver.take(driver.core.token(driver.core.flow, text, driver.now))


def test_provider_is_asked_at_the_start_and_when_a_token_was_refused() -> None:
    driver = Driver(renewable=True)
    with_token(driver, "one")
    driver.live()
    driver.lose()
    driver.recovered()
    assert len(driver.of(FetchToken)) == 1
    driver.lose(4401)
    with_token(driver, "two")
    driver.recovered()
    assert [each.token for each in driver.of(Connect)] == ["one", "one", "two"]


def test_provider_whose_tokens_are_all_refused_ends_the_client() -> None:
    driver = Driver(renewable=True)
    for _ in range(OPTIONS.max_refused_tokens):
        assert driver.core.status == "connecting"
        with_token(driver, "bad")
        driver.take(driver.core.refused(driver.core.flow, 401, "", driver.now))
    assert driver.core.closed is not None
    assert driver.core.closed.reason == "unauthorized"


def test_provider_that_raises_or_hangs_is_asked_again() -> None:
    driver = Driver(renewable=True)
    driver.tick()
    driver.take(driver.core.token_failed(driver.core.flow, "boom", driver.now))
    assert driver.core.phase is Phase.WAITING
    driver.wake()
    driver.tick(OPTIONS.token_timeout_s)
    assert driver.core.phase is Phase.WAITING
    with_token(driver, "at last")
    driver.live()
    assert driver.core.status == "live"


def test_expiring_token_is_renewed_without_a_new_connection() -> None:
    driver = Driver(renewable=True)
    with_token(driver, "one")
    driver.live()
    driver.hear({"type": "TOKEN_EXPIRING", "expiresAt": 1}, {"type": "TOKEN_EXPIRING", "expiresAt": 1})
    assert len(driver.of(FetchToken)) == 2
    driver.take(driver.core.token(driver.core.flow, "two", driver.now))
    refresh = driver.sent()[-1]
    assert (refresh["type"], refresh["token"]) == ("REFRESH", "two")
    driver.hear({"type": "REFRESHED", "requestId": refresh["requestId"], "expiresAt": 2})
    driver.lose()
    driver.recovered()
    assert driver.of(Connect)[-1].token == "two"


def test_token_that_cannot_be_renewed_is_kept() -> None:
    driver = Driver(renewable=True)
    with_token(driver, "one")
    driver.live()
    driver.hear({"type": "TOKEN_EXPIRING", "expiresAt": 1})
    driver.take(driver.core.token(driver.core.flow, "two", driver.now))
    driver.error(driver.sent()[-1]["requestId"], "FORBIDDEN")
    driver.tick(2.0)
    driver.hear({"type": "TOKEN_EXPIRING", "expiresAt": 1})
    driver.take(driver.core.token_failed(driver.core.flow, "boom", driver.now))
    driver.lose()
    driver.recovered()
    assert driver.of(Connect)[-1].token == "one"


def test_fixed_token_is_not_renewed() -> None:
    driver = Driver(token="one")
    driver.live()
    driver.hear({"type": "TOKEN_EXPIRING", "expiresAt": 1})
    assert driver.of(FetchToken) == []


def test_tokens_are_not_in_the_log_nor_in_what_is_printed() -> None:
    driver = Driver(token="s3cret")
    driver.live()
    driver.lose(4401)
    assert "s3cret" not in repr(driver.done)


# -- silence -----------------------------------------------------------------------------------------


def test_socket_that_is_open_and_dead_is_given_up() -> None:
    driver = Driver()
    driver.live()
    driver.wake()
    assert driver.sent() == [{"type": "PING"}]
    driver.wake()
    assert driver.core.status == "reconnecting"
    assert driver.of(Drop) == [Drop(1, 1001)]


def test_anything_that_comes_proves_that_the_socket_lives() -> None:
    driver = Driver()
    driver.live()
    driver.wake()
    driver.tick(OPTIONS.pong_timeout_s - 1)
    driver.hear({"type": "PONG"})
    driver.tick(2)
    assert driver.core.status == "live"


def test_connection_is_asked_before_it_is_given_up_when_the_clock_has_jumped() -> None:
    driver = Driver()
    driver.live()
    driver.wake()
    driver.tick(3_600.0)
    assert driver.core.phase is Phase.LIVE
    assert [each.entry.what for each in driver.of(Noted)][-1] == "clock jumped"
    driver.wake()
    assert driver.core.status == "reconnecting"


def test_close_is_idempotent_and_ends_what_waits() -> None:
    driver = Driver()
    driver.live()
    key = driver.call()
    driver.take(driver.core.close(driver.now))
    driver.take(driver.core.close(driver.now))
    assert driver.core.status == "closed"
    assert driver.outcomes()[key].reason == "closed"
    assert driver.of(Drop) == [Drop(1)]


def test_call_that_cannot_be_sent_is_refused_before_anything_happens() -> None:
    with pytest.raises(ValueError, match=r"NaN|JSON"):
        calls.trigger("k", "t", float("nan"), options=OPTIONS, deadline=None)
    with pytest.raises(TypeError):
        calls.trigger("k", "t", object(), options=OPTIONS, deadline=None)
    with pytest.raises(ValueError, match="bytes"):
        calls.trigger("k", "t", "x" * OPTIONS.max_sent_bytes, options=OPTIONS, deadline=None)
    with pytest.raises(ValueError, match="printable"):
        calls.trigger("", "t", None, options=OPTIONS, deadline=None)
    assert json.loads(calls.trigger("k", "t", "ü", options=OPTIONS, deadline=None).text)["args"] == "ü"
