"""What a panel knows of idempotency keys: the transitions, the time, the bound."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.journal.records import Key, Ran
from panels_gateway.panels.answers import Answered, AnswerLimits, Answers, Conflict, Running
from panels_gateway.panels.trigger import Trigger
from tests.gateway.journal.batches import ran


def key(text: str, fingerprint: bytes = b"f" * 16, subject: str = "ann") -> Key:
    return Key(subject, text, fingerprint)


def record(text: str, at_ms: int = 0) -> Ran:
    return ran(1, 0, key=key(text), at_ms=at_ms)


def follower() -> Trigger:
    return cast("Trigger", cast("Any", object()))


def test_key_goes_from_unknown_to_running_to_answered() -> None:
    answers = Answers(AnswerLimits())
    assert answers.look(key("k"), 0) is None
    answers.begin(key("k"))
    running = answers.look(key("k"), 0)
    assert isinstance(running, Running)
    waiting = follower()
    running.followers.append(waiting)
    assert (answers.running, len(answers)) == (1, 0)
    kept = record("k")
    assert answers.settle(kept) == [waiting]
    assert answers.look(key("k"), 0) == Answered(kept)
    assert (answers.running, len(answers)) == (0, 1)


def test_key_that_is_abandoned_is_unknown_again() -> None:
    answers = Answers(AnswerLimits())
    answers.begin(key("k"))
    running = answers.look(key("k"), 0)
    assert isinstance(running, Running)
    waiting = follower()
    running.followers.append(waiting)
    assert answers.abandon(key("k")) == [waiting]
    assert answers.look(key("k"), 0) is None
    assert answers.abandon(key("k")) == []


def test_key_used_for_something_else_conflicts_while_it_runs_and_after() -> None:
    answers = Answers(AnswerLimits())
    other = key("k", b"g" * 16)
    answers.begin(key("k"))
    assert isinstance(answers.look(other, 0), Conflict)
    answers.settle(record("k"))
    assert isinstance(answers.look(other, 0), Conflict)
    assert answers.look(key("k", subject="bob"), 0) is None


def test_record_is_let_go_once_it_is_stored_and_only_that_one() -> None:
    answers = Answers(AnswerLimits())
    first, second = record("k"), record("k", 1)
    answers.settle(first)
    answers.settle(second)
    answers.stored(first)
    assert answers.look(key("k"), 0) == Answered(second)
    answers.stored(second)
    assert answers.look(key("k"), 0) == Answered(None)
    answers.stored(record("unknown"))


def test_answer_without_a_runner_has_no_followers() -> None:
    assert Answers(AnswerLimits()).settle(record("k")) == []


def test_key_is_unknown_after_its_time_even_to_other_args() -> None:
    answers = Answers(AnswerLimits(ttl_ms=10))
    answers.settle(record("k", 100))
    assert answers.look(key("k"), 110) is not None
    assert answers.look(key("k", b"g" * 16), 111) is None
    assert len(answers) == 0


def test_oldest_keys_are_forgotten_above_the_bound_and_after_their_time() -> None:
    answers = Answers(AnswerLimits(keys=2, ttl_ms=10))
    for number, at_ms in enumerate((0, 1, 2)):
        answers.settle(record(f"k{number}", at_ms))
    assert answers.look(key("k0"), 2) is None
    assert len(answers) == 2
    answers.settle(record("late", 100))
    assert len(answers) == 1


def test_answer_from_the_future_does_no_harm_when_the_clock_jumps_back() -> None:
    answers = Answers(AnswerLimits(keys=2, ttl_ms=10))
    for text, at_ms in (("future", 1_000), ("now", 5), ("next", 6)):
        answers.settle(record(text, at_ms))
    assert answers.look(key("now"), 6) is not None
    assert answers.look(key("future"), 6) is None


def test_keys_of_the_journal_are_answered_without_their_record() -> None:
    answers = Answers(AnswerLimits(keys=2))
    answers.restore([(key("a"), 1), (key("b"), 2), (key("c"), 3)])
    assert answers.look(key("a"), 3) is None
    assert answers.look(key("c"), 3) == Answered(None)


@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "settle", "abandon", "look", "wait"]), st.sampled_from("abcd")),
        max_size=40,
    )
)
def test_key_never_runs_twice_at_once_and_never_more_than_the_bound_is_kept(
    run: list[tuple[str, str]],
) -> None:
    answers = Answers(AnswerLimits(keys=2, ttl_ms=3))
    running: set[str] = set()
    now_ms = 0
    for step, text in run:
        known = answers.look(key(text), now_ms)
        assert isinstance(known, Running) == (text in running)
        if step == "begin" and known is None:
            answers.begin(key(text))
            running.add(text)
        elif step == "settle" and text in running:
            answers.settle(record(text, now_ms))
            running.discard(text)
            assert isinstance(answers.look(key(text), now_ms), Answered)
        elif step == "abandon":
            answers.abandon(key(text))
            running.discard(text)
        elif step == "wait":
            now_ms += 2
        assert answers.running == len(running)
        assert len(answers) <= 2
