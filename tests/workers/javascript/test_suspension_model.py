"""Random handlers that wait, answered in random orders, do what a model in Python says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from panels_shared.outcome import Suspended
from tests.workers.javascript.suspensions import Life, bad, begun, good


@dataclass(frozen=True)
class Step:
    """``count`` calls at once, waited for by ``how``; ``early`` is waited for at the end of the handler."""

    how: str
    count: int


steps = st.lists(
    st.builds(Step, st.sampled_from(["one", "all", "race", "any", "allSettled", "early"]), st.integers(1, 4)),
    min_size=1,
    max_size=6,
)


def source_of(plan: Sequence[Step]) -> str:
    """The handler."""
    lines = ["const seen = [], early = [];"]
    for number, step in enumerate(plan):
        calls = ", ".join(f"$ext.x.m({number}, {index})" for index in range(step.count))
        wait = {
            "one": f"[{calls}][0]",
            "allSettled": f"Promise.allSettled([{calls}]).then((a) => a.map((r) => r.value ?? r.reason.code))",
        }.get(step.how, f"Promise.{step.how}([{calls}])")
        if step.how == "early":
            lines.append(f"early.push({calls});")
            continue
        codes = "e.errors ? e.errors.map((x) => x.code) : e.code"
        lines.append(f"try {{ seen.push(await {wait}) }} catch (e) {{ seen.push({codes}) }}")
        lines.append("$state.n = ($state.n ?? 0) + 1;")
    lines.append("for (const p of early) seen.push(await p.catch((e) => e.code)); return seen;")
    return "\n".join(lines)


def expected(step: Step, calls: list[int], answers: list[tuple[int, bool, Any]]) -> Any:
    """What a step sees, by the order of the ``answers`` to its ``calls``."""
    own = [answer for answer in answers if answer[0] in calls]
    values = {call: value for call, _, value in own}
    well = [value for _, ok, value in own if ok]
    if step.how == "one":
        return values[calls[0]]
    if step.how == "race":
        return own[0][2]
    if step.how == "any":
        return well[0] if well else [values[call] for call in calls]
    failures = [value for _, ok, value in own if not ok]
    if step.how == "all" and failures:
        return failures[0]
    return [values[call] for call in calls]


@given(steps, st.data())
@settings(deadline=None)
def test_random_handler_sees_what_the_model_says(plan: list[Step], data: st.DataObject) -> None:
    # "one" waits for its first call; the others are never rejected, for nobody would handle that
    life: Life = begun(source_of(plan))
    groups: dict[int, list[int]] = {}
    waiting: list[int] = []
    answers: list[tuple[int, bool, Any]] = []
    careful: set[int] = set()
    while isinstance(life.last, Suspended):
        for call in life.last.calls:
            number, index = json.loads(call.args)
            groups.setdefault(number, []).append(call.call)
            waiting.append(call.call)
            if plan[number].how == "one" and index:
                careful.add(call.call)
        order = data.draw(st.permutations(waiting))
        batch = order[: data.draw(st.integers(1, len(order)))]
        given_now = []
        for number in batch:
            waiting.remove(number)
            ok = number in careful or data.draw(st.booleans())
            answers.append((number, ok, f"v{number}"))
            given_now.append(good(number, f"v{number}") if ok else bad(number, f"v{number}"))
        life.answer(*given_now)
    seen = life.returned()
    awaited = [number for number, step in enumerate(plan) if step.how != "early"]
    model = [expected(plan[number], groups[number], answers) for number in awaited]
    values = {call: value for call, _, value in answers}
    early = [call for number, step in enumerate(plan) if step.how == "early" for call in groups[number]]
    assert seen == model + [values[call] for call in early]
    assert life.state.get("n", b"0") == b"%d" % len(awaited)
