"""Which spans come of a trigger, and where they hang."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panels_gateway.observe.tracing import Context, Span, Tracing, traceparent

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def make(ratio: float = 1.0) -> tuple[Tracing, list[Span]]:
    spans: list[Span] = []
    return Tracing(spans.append, ratio=ratio, random_bits=random.Random(1).getrandbits), spans


def test_caller_decides_and_its_span_is_the_parent() -> None:
    for ratio in (0.0, 1.0):
        tracing, _ = make(ratio)
        context = tracing.take(GIVEN)
        assert context is not None
        assert context[:2] == (TRACE, PARENT)
        assert context.span_id
        assert tracing.take(GIVEN[:-2] + "00") is None
        assert tracing.take("cc" + GIVEN[2:] + "-what-comes-later") is not None


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "x",
        GIVEN.upper(),
        "ff" + GIVEN[2:],
        GIVEN + "1",
        GIVEN[:-1],
        GIVEN + "-" + "x" * 1_000_000,
        GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GIVEN.replace("00f067aa0ba902b7", "0" * 16),
        GIVEN.replace("4bf9", "４ｂｆ９"),
    ],
)
def test_what_is_no_traceparent_is_as_good_as_none(given: str | None) -> None:
    context = make()[0].take(given)
    assert context is not None
    assert context.parent_id == 0
    assert context.trace_id != TRACE
    assert make(0.0)[0].take(given) is None


@given(st.text(max_size=80))
def test_any_text_is_taken(text: str) -> None:
    context = make()[0].take(text)
    assert context is None or 0 < context.trace_id < 1 << 128


def test_ratio_is_how_many_are_traced() -> None:
    tracing, _ = make(0.25)
    assert 2_200 < sum(tracing.take(None) is not None for _ in range(10_000)) < 2_800


def test_traceparent_names_a_span_that_is_sampled() -> None:
    assert traceparent(TRACE, PARENT) == GIVEN
    assert Context(TRACE, PARENT, 7).below(0) == Context(TRACE, 7, 1)


def test_run_is_within_its_trigger_whatever_the_worker_says() -> None:
    tracing, spans = make()
    context = Context(TRACE, PARENT, 7)
    for execution_us in (0, 250_000, 10**15):
        spans.clear()
        tracing.ran(
            context, "t", submitted_s=1.0, sent_s=2.0, execution_us=execution_us, now_s=3.0, attributes={"a": 1},
            worker={"b": 2}, error="TRAP",
        )  # fmt: skip
        trigger, queue, run = spans
        assert trigger == ("trigger t", "server", TRACE, 7, PARENT, 1.0, 3.0, {"a": 1}, "TRAP")
        assert (queue.parent_id, queue.began_s, queue.ended_s) == (7, 1.0, 2.0)
        assert (run.parent_id, run.ended_s, run.attributes) == (7, 3.0, {"b": 2})
        assert 2.0 <= run.began_s <= 3.0
        assert len({span.span_id for span in spans}) == 3
