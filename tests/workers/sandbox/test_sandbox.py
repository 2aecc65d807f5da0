"""Jobs on replicas, in order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from panels_shared.errors import WireError
from panels_shared.messages import (
    Answered,
    Delta,
    Forget,
    Job,
    Missing,
    Prepare,
    Result,
    Resume,
    Revoke,
    Snapshot,
    Tool,
    ToWorker,
)
from panels_shared.outcome import Completed, Failed, Reason
from panels_worker.sandbox.replica import Replicas
from panels_worker.sandbox.sandbox import Sandbox
from tests.support.programs import FakeLoader, FunctionProgram

LIMITS = (1, 2, 3, 4, 5, 6, 7)


def tool(key: int = 1, digest: bytes = b"d", capabilities: tuple[str, ...] = ()) -> Tool:
    return Tool(key, digest, "wasm", "handle", f"tool{key}", LIMITS, capabilities)


def job(
    number: int, *, index: int, panel: int = 1, epoch: int = 1, tool: int = 1, committed: int = -1
) -> Job:
    return Job(number, panel, epoch, index, committed, tool, b"1", b"{}", 5.0, 9)


def resume(number: int, *, index: int, epoch: int = 1, tool: int = 1, value: bytes = b"1") -> Resume:
    answers = (Answered(3, True, value),)
    return Resume(number, 1, epoch, index, -1, tool, b"{}", 5.0, 9, b"image", answers)


def count(state: Mapping[str, bytes], args: object) -> dict[str, bytes | None]:
    if args != 1:
        raise ValueError("expected 1")
    return {"n": b"%d" % (int(state.get("n", b"0")) + 1)}


@pytest.fixture
def program() -> FunctionProgram:
    return FunctionProgram(count)


@pytest.fixture
def loader(program: FunctionProgram) -> FakeLoader:
    return FakeLoader({b"d": program})


@pytest.fixture
def sandbox(loader: FakeLoader) -> Sandbox:
    return Sandbox(loader, replicas=Replicas(), max_programs=2, max_tools=3)


def run(sandbox: Sandbox, *messages: ToWorker) -> list[object]:
    sandbox.accept(messages)
    answers: list[object] = []
    while sandbox.queue:
        answer = sandbox.run_next()
        if answer is not None:
            answers.append(answer)
    return answers


def completed(answers: list[object]) -> list[int]:
    return [a.job for a in answers if isinstance(a, Result) and isinstance(a.outcome, Completed)]


def test_sandbox_runs_jobs_in_order_on_one_replica(sandbox: Sandbox, program: FunctionProgram) -> None:
    answers = run(sandbox, tool(), Snapshot(1, 1, {"n": b"5"}), *(job(9 + i, index=i) for i in range(3)))
    assert completed(answers) == [9, 10, 11]
    assert program.tasks[-1].state["n"] == b"8"
    assert (sandbox.started, sandbox.finished) == (3, 3)


def test_sandbox_hands_the_tools_bounds_to_its_jobs(sandbox: Sandbox, program: FunctionProgram) -> None:
    run(sandbox, tool(capabilities=("state:read:a",)), Snapshot(1, 1, {}), job(1, index=0))
    task = program.tasks[0]
    assert (task.tool, task.args, task.scope, task.now_ms, task.seed) == ("tool1", b"1", b"{}", 5.0, 9)
    assert (task.limits.fuel, task.limits.deadline_ms, task.limits.log_bytes) == (1, 2, 7)
    assert task.capabilities.may_read("a")
    assert not task.capabilities.may_write("a")


def test_sandbox_lets_a_failed_job_take_its_index(sandbox: Sandbox, loader: FakeLoader) -> None:
    def fail(state: Mapping[str, bytes], args: object) -> dict[str, bytes | None]:
        raise ValueError("no")

    loader.programs[b"f"] = FunctionProgram(fail)
    answers = run(
        sandbox,
        tool(),
        tool(2, b"f"),
        Snapshot(1, 1, {}),
        job(1, index=0, tool=2),
        job(2, index=1),
    )
    assert isinstance(answers[0], Result)
    assert isinstance(answers[0].outcome, Failed)
    assert completed(answers) == [2]


def test_sandbox_misses_what_it_was_not_told(sandbox: Sandbox) -> None:
    assert run(sandbox, job(1, index=0)) == [Missing(1, "tool")]
    assert run(sandbox, tool(), job(2, index=0)) == [Missing(2, "replica")]
    assert run(sandbox, tool(2, b"unknown"), Snapshot(1, 1, {}), job(3, index=0, tool=2)) == [
        Missing(3, "artifact")
    ]


def test_sandbox_misses_all_later_jobs_of_an_epoch_with_a_gap(sandbox: Sandbox) -> None:
    answers = run(
        sandbox, tool(), Snapshot(1, 1, {}), job(1, index=0, tool=7), job(2, index=1), job(3, index=2)
    )
    assert answers == [Missing(1, "tool"), Missing(2, "replica"), Missing(3, "replica")]
    assert completed(run(sandbox, Delta(1, 2, 1, -1, {}), job(4, epoch=2, index=0))) == [4]


def test_sandbox_rolls_back_for_a_delta(sandbox: Sandbox, program: FunctionProgram) -> None:
    run(sandbox, tool(), Snapshot(1, 1, {}), *(job(i, index=i) for i in range(4)))
    run(sandbox, Delta(1, 2, 1, 1, {"x": b"1"}), job(9, epoch=2, index=0))
    assert program.tasks[-1].state == {"n": b"3", "x": b"1"}


def test_sandbox_skips_revoked_jobs_of_that_panel_and_epoch(sandbox: Sandbox) -> None:
    answers = run(
        sandbox,
        tool(),
        Snapshot(1, 1, {}),
        Snapshot(2, 1, {}),
        job(1, index=0),
        job(2, index=0, panel=2),
        Revoke(1, 1),
        Snapshot(1, 2, {}),
        job(3, index=0, epoch=2),
    )
    assert completed(answers) == [2, 3]


def test_sandbox_forgets_a_panel_and_its_tools(sandbox: Sandbox) -> None:
    run(sandbox, tool(), tool(2), Snapshot(1, 1, {}), Forget(1, (1, 99)))
    assert run(sandbox, job(1, index=0)) == [Missing(1, "tool")]
    assert run(sandbox, job(2, index=0, tool=2)) == [Missing(2, "replica")]


def test_sandbox_forgets_everything_but_programs_when_reset(sandbox: Sandbox, loader: FakeLoader) -> None:
    run(sandbox, tool(), Snapshot(1, 1, {}), job(1, index=0))
    sandbox.accept([job(2, index=1)])
    sandbox.reset()
    assert not sandbox.queue
    assert run(sandbox, job(3, index=0)) == [Missing(3, "tool")]
    assert completed(run(sandbox, tool(), Snapshot(1, 1, {}), job(4, index=0))) == [4]
    assert loader.loads == [b"d"]


def test_sandbox_loads_a_program_once_and_drops_the_one_not_used_for_longest(
    sandbox: Sandbox, loader: FakeLoader
) -> None:
    for name in (b"e", b"f"):
        loader.programs[name] = FunctionProgram(count)
    tools = [tool(1, b"d"), tool(2, b"e"), tool(3, b"f")]
    order = (1, 2, 1, 3, 1, 2)
    jobs = [job(i, index=i, tool=key) for i, key in enumerate(order)]
    assert len(completed(run(sandbox, *tools, Snapshot(1, 1, {}), *jobs))) == len(order)
    assert loader.loads == [b"d", b"e", b"f", b"e"]


def test_sandbox_drops_the_tool_not_used_for_longest(sandbox: Sandbox) -> None:
    run(sandbox, tool(1), tool(2), tool(3), Snapshot(1, 1, {}), job(1, index=0, tool=1), tool(4))
    assert run(sandbox, job(2, index=1, tool=2)) == [Missing(2, "tool")]
    assert completed(run(sandbox, job(3, index=1, tool=1))) == [3]


def test_sandbox_answers_and_condemns_itself_when_a_program_raises(
    sandbox: Sandbox, loader: FakeLoader
) -> None:
    def crash(state: Mapping[str, bytes], args: object) -> dict[str, bytes | None]:
        raise KeyError("a defect of ours")

    loader.programs[b"c"] = FunctionProgram(crash)
    (answer,) = run(sandbox, tool(1, b"c"), Snapshot(1, 1, {}), job(1, index=0))
    assert isinstance(answer, Result)
    assert isinstance(answer.outcome, Failed)
    assert answer.outcome.reason is Reason.TRAP
    assert "defect" not in answer.outcome.message
    assert sandbox.defect


@pytest.mark.parametrize(
    "message",
    [
        Prepare(b"d", "wasm", "handle", b""),
        Tool(1, b"d", "wasm", "handle", "t", (0, 1, 1, 1, 1, 1, 1), ()),
    ],
)
def test_sandbox_refuses_what_no_gateway_sends(sandbox: Sandbox, message: ToWorker) -> None:
    sandbox.accept([message])
    with pytest.raises(WireError):
        sandbox.run_next()


def test_resumption_takes_its_place_among_the_jobs(sandbox: Sandbox, program: FunctionProgram) -> None:
    answers = run(sandbox, tool(), Snapshot(1, 1, {}), job(1, index=0), resume(2, index=1), job(3, index=2))
    assert completed(answers) == [1, 2, 3]
    assert program.resumed == [(b"image", (Answered(3, True, b"1"),))]
    assert program.tasks[-1].state["n"] == b"3"


def test_resumption_is_undone_as_a_job_is(sandbox: Sandbox, program: FunctionProgram) -> None:
    run(sandbox, tool(), Snapshot(1, 1, {}), job(1, index=0), resume(2, index=1))
    answers = run(sandbox, Delta(1, 2, 1, 0, {}), resume(3, index=0, epoch=2))
    assert completed(answers) == [3]
    assert program.tasks[-1].state["n"] == b"2"


def test_resumption_that_fails_takes_its_index(sandbox: Sandbox) -> None:
    answers = run(sandbox, tool(), Snapshot(1, 1, {}), resume(1, index=0, value=b"2"), job(2, index=1))
    assert [type(answer.outcome) for answer in answers if isinstance(answer, Result)] == [Failed, Completed]


def test_resumption_without_what_it_needs_is_missing(sandbox: Sandbox) -> None:
    answers = run(
        sandbox, resume(1, index=0), tool(), resume(2, index=0), Snapshot(1, 1, {}), resume(3, index=1)
    )
    assert answers == [Missing(1, "tool"), Missing(2, "replica"), Missing(3, "replica")]
    assert run(sandbox, tool(2, b"gone"), resume(4, index=0, tool=2)) == [Missing(4, "artifact")]
    assert completed(run(sandbox, resume(5, index=0))) == [5]


def test_revoked_resumption_is_not_begun(sandbox: Sandbox, program: FunctionProgram) -> None:
    assert run(sandbox, tool(), Snapshot(1, 1, {}), resume(1, index=0), Revoke(1, 1)) == []
    assert program.resumed == []
