"""Whose handler is compiled next, and who has used up what they may."""

from __future__ import annotations

from itertools import pairwise

import pytest

from panels_gateway.dispatch.compile_queue import MAX_CHARGE_S, MAX_SUBJECTS, CompileLimits, CompileQueue

ANY = frozenset(("",))


def full(*, seconds: float = 1_000.0, window_s: float = 1_000.0, **keys: int) -> CompileQueue:
    """A queue in which each subject has so many handlers."""
    queue = CompileQueue(CompileLimits(seconds=seconds, window_s=window_s))
    for subject, count in keys.items():
        for number in range(count):
            queue.add(subject, f"{subject}{number}".encode(), "")
    return queue


def order(queue: CompileQueue, costs: dict[str, float]) -> list[str]:
    """Whose turn it is, until nothing is left; each handler costs what its subject's do."""
    turns = []
    while (taken := queue.take(ANY)) is not None:
        turns.append(taken[0])
        queue.charge(taken[0], costs[taken[0]], 0.0)
    return turns


def test_subjects_take_turns_and_each_has_its_own_order() -> None:
    queue = full(ann=3, bob=1)
    assert [queue.take(ANY) for _ in range(5)] == [
        ("ann", b"ann0"), ("bob", b"bob0"), ("ann", b"ann1"), ("ann", b"ann2"), None
    ]  # fmt: skip


def test_turns_are_by_seconds_and_not_by_handlers() -> None:
    turns = order(full(ann=4, bob=40), {"ann": 5.0, "bob": 0.5})
    # while both wait, bob's handlers take about as long as ann's
    begins = [at for at, subject in enumerate(turns) if subject == "ann"]
    assert begins[0] == 0
    assert all(8 <= later - earlier - 1 <= 12 for earlier, later in pairwise(begins))


def test_subject_that_comes_later_goes_before_one_that_has_used_much() -> None:
    queue = full(ann=10)
    for _ in range(3):
        queue.take(ANY)
        queue.charge("ann", 5.0, 0.0)
    queue.add("bob", b"bob0", "")
    assert queue.take(ANY) == ("bob", b"bob0")


def test_handler_that_two_want_is_taken_once() -> None:
    queue = full()
    queue.add("ann", b"k", "")
    queue.add("bob", b"k", "")
    assert queue.take(ANY) == ("ann", b"k")
    assert queue.take(ANY) is None


def test_take_and_waits_look_at_labels() -> None:
    queue = full(ann=1)
    queue.add("bob", b"g", "gpu")
    assert queue.take({"gpu"}) == ("bob", b"g")
    assert queue.take({"gpu"}) is None
    assert queue.waits(ANY, without=())
    assert not queue.waits(ANY, without=("ann",))
    assert not queue.waits({"gpu"}, without=())


def test_leave_and_discard_take_handlers_out() -> None:
    queue = full(ann=2, bob=1)
    queue.discard(b"ann0")
    queue.discard(b"unknown")
    assert queue.leave("ann") == [b"ann1"]
    assert queue.leave("nobody") == []
    assert order(queue, {"bob": 1.0}) == ["bob"]


def test_budget_is_used_up_by_what_was_charged_and_comes_back_over_the_window() -> None:
    queue = full(seconds=10.0, window_s=100.0)
    queue.charge("ann", 6.0, 0.0)
    assert queue.retry_after_s("ann", 0.0) == 0.0
    queue.charge("ann", 5.0, 0.0)
    assert queue.retry_after_s("bob", 0.0) == 0.0
    wait_s = queue.retry_after_s("ann", 0.0)
    assert wait_s == pytest.approx(20.0)
    assert queue.retry_after_s("ann", wait_s) == 0.0
    # it never holds more than the whole
    queue.charge("ann", 10.5, 10_000.0)
    assert queue.retry_after_s("ann", 10_000.0) > 0


def test_charge_is_bounded_and_so_is_what_is_remembered() -> None:
    queue = full(seconds=MAX_CHARGE_S + 1, window_s=100.0)
    queue.charge("ann", 1e9, 0.0)
    queue.charge("ann", -1e9, 0.0)
    assert queue.retry_after_s("ann", 0.0) == 0.0
    for number in range(MAX_SUBJECTS + 10):
        queue.charge(f"s{number}", 1.0, 0.0)
    assert len(queue._budgets) == MAX_SUBJECTS
    queue.charge("ann", 5.0, 0.0)
    assert queue.retry_after_s("ann", 0.0) > 0  # those that have used least are forgotten
