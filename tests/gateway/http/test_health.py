"""What ``/health`` makes of a gateway's condition."""

from __future__ import annotations

from dataclasses import replace

import pytest

from panels_gateway.http.health import MAX_MISSING, Condition, problems, report
from panels_gateway.journal.journal import FoldingState
from panels_gateway.observe.fleet import PoolSummary

GOOD = Condition(
    workers=True,
    closing=False,
    durability="process",
    incarnation=3,
    position=12,
    durable=12,
    folded=9,
    backlog_bytes=1_000,
    bound_bytes=1_000,
    folding=FoldingState(up=True, deaths=2),
)


def test_gateway_that_can_work_is_ready_and_says_where_it_stands() -> None:
    assert GOOD.healthy
    answer = report(GOOD)
    assert (answer["status"], answer["durability"], answer["problems"]) == ("ready", "process", [])
    assert answer["journal"] == {
        "incarnation": 3,
        "position": 12,
        "durable": 12,
        "folded": 9,
        "backlogBytes": 1_000,
        "maxBacklogBytes": 1_000,
        "folding": "up",
        "foldingDeaths": 2,
    }


def pool(**missing: int) -> PoolSummary:
    return PoolSummary(sandboxes=2, versions={"panels": "1"}, layers={"seccomp": 2}, missing=missing)


def test_pools_are_told_and_what_they_run_without_is_a_problem() -> None:
    condition = replace(GOOD, pools=[pool(), pool(landlock=1), pool(landlock=2, user=1)])
    answer = report(condition)
    assert condition.healthy
    assert answer["pools"][1] == {
        "sandboxes": 2,
        "layers": {"seccomp": 2},
        "missing": {"landlock": 1},
        "versions": {"panels": "1"},
    }
    assert answer["problems"] == ["3 sandboxes run without landlock", "1 sandboxes run without user"]


def test_what_pools_say_makes_a_bounded_number_of_problems() -> None:
    condition = replace(GOOD, pools=[pool(**{f"layer{n}": 1}) for n in range(256)])
    assert len(problems(condition)) == MAX_MISSING


@pytest.mark.parametrize(
    ("condition", "healthy", "expected"),
    [
        (replace(GOOD, workers=False), False, ["no worker is connected that can run a job"]),
        (replace(GOOD, workers=False, closing=True), False, ["the gateway is shutting down"]),
        (replace(GOOD, tried="no", tried_s=30), True, ["/health/ready, 30 s ago: no"]),
        (replace(GOOD, tried="no", tried_s=31), True, []),
        (
            replace(GOOD, backlog_bytes=1_001),
            False,
            [
                "1,001 bytes of the journal wait to be folded, more than the bound of 1,000: triggers are refused"
            ],
        ),
        (
            replace(GOOD, folding=FoldingState(up=False, deaths=2)),
            True,
            ["the folding process is down, and is being started again (it ended 2 times)"],
        ),
        (replace(GOOD, folding=FoldingState(up=True, deaths=2, silent_s=9.9)), True, []),
        (
            replace(GOOD, backlog_bytes=999, folding=FoldingState(up=True, deaths=2, silent_s=12.4)),
            True,
            [
                (
                    "the folding process has said nothing for 12 s, and 999 bytes of the journal wait: it was "
                    "stopped, or its disk hangs"
                )
            ],
        ),
        (
            replace(GOOD, damaged=2),
            True,
            [
                "panels whose stored rows cannot be read: 2; the log names them, and panels-gateway verify finds all"
            ],
        ),
    ],
    ids=[
        "workers",
        "closing",
        "tried",
        "tried long ago",
        "backlog",
        "folding",
        "folding slowly",
        "folding hangs",
        "damaged",
    ],
)
def test_each_problem_is_a_sentence(condition: Condition, healthy: bool, expected: list[str]) -> None:
    assert condition.healthy is healthy
    assert problems(condition) == expected
    assert report(condition)["status"] == ("ready" if healthy else "unavailable")
