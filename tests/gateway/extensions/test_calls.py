"""Which calls are open, by example and by property."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from panels_gateway.extensions.calls import Answer, CallLimits, Calls, Instruction, Send
from panels_gateway.extensions.errors import DuplicateCallError, ErrorCode
from panels_gateway.extensions.messages import (
    MAX_ARGUMENTS_BYTES,
    Call,
    CallId,
    Cancel,
    Returned,
)
from tests.gateway.extensions.builders import METHODS, a_call, a_return


def codes(instructions: list[Instruction]) -> list[tuple[str, ErrorCode | None]]:
    answers = [item.returned for item in instructions if isinstance(item, Answer)]
    return [(answer.id, answer.error.code if answer.error else None) for answer in answers]


def sent(instructions: list[Instruction]) -> list[str]:
    return [
        item.message.id for item in instructions if isinstance(item, Send) and isinstance(item.message, Call)
    ]


def ready(**limits: int) -> Calls:
    calls = Calls(CallLimits(**limits))
    calls.ready(METHODS, 0.0)
    return calls


def test_call_waits_until_the_process_is_ready() -> None:
    calls = Calls()

    assert calls.open(a_call(), 0.0) == []
    assert sent(calls.ready(METHODS, 1.0)) == ["c1"]
    assert codes(calls.returned(a_return(), 2.0)) == [("c1", None)]


def test_call_is_refused_when_its_id_is_open() -> None:
    calls = ready()
    calls.open(a_call(), 0.0)

    with pytest.raises(DuplicateCallError):
        calls.open(a_call(), 0.0)


def test_answer_is_ignored_when_it_comes_twice_or_was_never_asked_for() -> None:
    calls = ready()
    calls.open(a_call(), 0.0)

    assert codes(calls.returned(a_return(), 1.0)) == [("c1", None)]
    assert calls.returned(a_return(), 1.0) == []
    assert calls.returned(a_return("forged"), 1.0) == []


def test_answer_is_ignored_when_the_call_has_not_been_sent() -> None:
    calls = ready(running=1)
    calls.open(a_call("c1"), 0.0)
    calls.open(a_call("c2"), 0.0)

    assert calls.returned(a_return("c2"), 1.0) == []
    assert calls.waiting == 1


@pytest.mark.parametrize(
    ("extension", "method", "code"),
    [("nope", "get", ErrorCode.UNKNOWN), ("http", "nope", ErrorCode.METHOD_UNKNOWN)],
)
def test_call_of_what_is_not_there_is_answered_before_and_after_the_start(
    extension: str, method: str, code: ErrorCode
) -> None:
    call = a_call(extension=extension, method=method)
    early = Calls()
    early.open(call, 0.0)

    assert codes(early.ready(METHODS, 1.0)) == [("c1", code)]
    assert codes(ready().open(call, 0.0)) == [("c1", code)]


@pytest.mark.parametrize(
    "call",
    [a_call(arguments=b"1" * (MAX_ARGUMENTS_BYTES + 1)), a_call(principal="x" * 257), a_call("")],
    ids=["arguments", "name", "id"],
)
def test_call_that_the_process_would_not_take_is_answered(call: Call) -> None:
    assert codes(ready().open(call, 0.0)) == [(call.id, ErrorCode.ARGUMENTS)]


def test_call_is_answered_and_stopped_at_its_deadline() -> None:
    calls = ready()
    calls.open(a_call(), 0.0)

    assert calls.next_s == 6.0
    assert calls.tick(5.9) == []
    instructions = calls.tick(6.0)
    assert instructions[0] == Send(Cancel(CallId("c1")))
    assert codes(instructions) == [("c1", ErrorCode.TIMEOUT)]
    assert calls.next_s is None


def test_call_that_waits_too_long_says_what_it_waited_for() -> None:
    down = Calls()
    down.open(a_call(), 0.0)
    busy = ready(running=1)
    busy.limits = CallLimits(running=1, wait_s=3.0)
    busy.open(a_call("c1"), 0.0)
    busy.open(a_call("c2"), 0.0)

    assert codes(down.tick(30.0)) == [("c1", ErrorCode.UNAVAILABLE)]
    assert codes(busy.tick(3.0)) == [("c2", ErrorCode.OVERLOADED)]


def test_call_that_runs_is_lost_with_the_process_and_says_whether_it_may_be_repeated() -> None:
    calls = ready()
    calls.open(a_call("get"), 0.0)
    calls.open(a_call("send", extension="mail", method="send"), 0.0)
    calls.open(a_call("waits", extension="mail", method="send"), 0.0)

    errors = [item.returned.error for item in calls.lost() if isinstance(item, Answer)]

    assert [(error.code, error.repeatable) for error in errors if error] == [
        (ErrorCode.LOST, True),
        (ErrorCode.LOST, False),
    ]
    assert sent(calls.ready(METHODS, 1.0)) == ["waits"]


def test_lost_call_can_be_made_again_under_its_id() -> None:
    calls = ready()
    calls.open(a_call(), 0.0)
    calls.lost()

    assert calls.open(a_call(), 1.0) == []
    assert sent(calls.ready(METHODS, 2.0)) == ["c1"]


def test_cancelled_call_is_answered_and_gives_its_slot_on() -> None:
    calls = ready(running=1)
    calls.open(a_call("c1"), 0.0)
    calls.open(a_call("c2"), 0.0)

    instructions = calls.cancel(CallId("c1"), 1.0)

    assert instructions[0] == Send(Cancel(CallId("c1")))
    assert codes(instructions) == [("c1", ErrorCode.CANCELLED)]
    assert sent(instructions) == ["c2"]
    assert calls.cancel(CallId("c1"), 1.0) == []


def test_slots_go_to_panels_in_turn() -> None:
    calls = ready(running=1)
    for call_id, panel in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
        calls.open(a_call(call_id, panel=panel), 0.0)

    order = [sent(calls.returned(a_return(call_id), 1.0)) for call_id in ("a1", "a2", "b1")]

    assert order == [["a2"], ["b1"], ["a3"]]


def test_panel_has_no_more_than_its_slots_while_others_go_on() -> None:
    calls = ready(running=3, running_per_panel=1)

    assert sent(calls.open(a_call("a1", panel="a"), 0.0)) == ["a1"]
    assert sent(calls.open(a_call("a2", panel="a"), 0.0)) == []
    assert sent(calls.open(a_call("b1", panel="b"), 0.0)) == ["b1"]


def test_method_has_no_more_than_its_slots_while_others_go_on() -> None:
    calls = ready()

    assert sent(calls.open(a_call("m1", extension="mail", method="send"), 0.0)) == ["m1"]
    assert sent(calls.open(a_call("m2", extension="mail", method="send"), 0.0)) == []
    assert sent(calls.open(a_call("g1"), 0.0)) == ["g1"]


def test_queue_has_bounds_for_a_panel_and_for_all() -> None:
    calls = ready(running=1, waiting=2, waiting_per_panel=1)
    calls.open(a_call("a1", panel="a"), 0.0)
    calls.open(a_call("a2", panel="a"), 0.0)

    assert codes(calls.open(a_call("a3", panel="a"), 0.0)) == [("a3", ErrorCode.OVERLOADED)]
    assert codes(calls.open(a_call("b1", panel="b"), 0.0)) == []
    assert codes(calls.open(a_call("c1", panel="c"), 0.0)) == [("c1", ErrorCode.OVERLOADED)]


def test_everything_is_answered_when_there_will_be_no_process() -> None:
    calls = Calls()
    calls.open(a_call("c1"), 0.0)

    assert codes(calls.give_up()) == [("c1", ErrorCode.UNAVAILABLE)]
    assert calls.waiting == 0


class CallsMachine(RuleBasedStateMachine):
    """Any order of events: one answer each, limits kept, and no call waits beside a free slot."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = CallLimits(running=3, running_per_panel=2, waiting=4, waiting_per_panel=3)
        self.calls = Calls(self.limits)
        self.now_s = 0.0
        self.count = 0
        self.opened: dict[str, Call] = {}
        self.running: dict[str, Call] = {}
        self.answers: Counter[str] = Counter()
        self.is_ready = False

    def perform(self, instructions: list[Instruction]) -> None:
        for item in instructions:
            if isinstance(item, Answer):
                self.answers[item.returned.id] += 1
                self.running.pop(item.returned.id, None)
            elif isinstance(item.message, Call):
                assert self.is_ready
                assert not self.answers[item.message.id]
                self.running[item.message.id] = item.message
            else:
                assert item.message.id in self.running

    def some(self, number: int) -> CallId:
        return CallId(str(number % (self.count + 1)))

    @rule(panel=st.sampled_from("ab"), mail=st.booleans())
    def open(self, panel: str, mail: bool) -> None:
        self.count += 1
        extension, method = ("mail", "send") if mail else ("http", "get")
        call = a_call(str(self.count), panel=panel, extension=extension, method=method)
        self.opened[call.id] = call
        self.perform(self.calls.open(call, self.now_s))

    @rule(number=st.integers(0, 1_000))
    def returned(self, number: int) -> None:
        self.perform(self.calls.returned(Returned(self.some(number), result=b"1"), self.now_s))

    @rule(number=st.integers(0, 1_000))
    def cancel(self, number: int) -> None:
        self.perform(self.calls.cancel(self.some(number), self.now_s))

    @rule(step_s=st.floats(0.0, 20.0))
    def tick(self, step_s: float) -> None:
        self.now_s += step_s
        self.perform(self.calls.tick(self.now_s))
        next_s = self.calls.next_s
        assert next_s is None or next_s > self.now_s

    @precondition(lambda self: not self.is_ready)
    @rule()
    def ready(self) -> None:
        self.is_ready = True
        self.perform(self.calls.ready(METHODS, self.now_s))

    @precondition(lambda self: self.is_ready)
    @rule()
    def lost(self) -> None:
        self.is_ready = False
        self.perform(self.calls.lost())
        assert not self.running

    @invariant()
    def every_call_is_open_or_answered_once(self) -> None:
        assert all(count == 1 for count in self.answers.values())
        assert self.calls.running == len(self.running)
        assert len(self.opened) - len(self.answers) == self.calls.running + self.calls.waiting

    @invariant()
    def limits_are_kept(self) -> None:
        panels = Counter(call.panel for call in self.running.values())
        assert len(self.running) <= self.limits.running
        assert all(count <= self.limits.running_per_panel for count in panels.values())
        assert sum(call.extension == "mail" for call in self.running.values()) <= 1
        assert self.calls.waiting <= self.limits.waiting

    @invariant()
    def no_call_waits_beside_a_free_slot(self) -> None:
        if not self.is_ready or len(self.running) == self.limits.running:
            return
        panels = Counter(call.panel for call in self.running.values())
        mails = sum(call.extension == "mail" for call in self.running.values())
        for call_id, call in self.opened.items():
            if call_id in self.running or self.answers[call_id]:
                continue
            assert panels[call.panel] == self.limits.running_per_panel or (call.extension == "mail" and mails)


TestCallsMachine = CallsMachine.TestCase
TestCallsMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
