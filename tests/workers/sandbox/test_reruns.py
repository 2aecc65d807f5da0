"""Jobs that run twice: what the second run may do, and what is said when it differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from panels_shared.messages import Answered
from panels_shared.outcome import Completed, Failed, Reason, Suspended, Usage
from panels_worker.guest.task import Execution, Program, Task
from panels_worker.sandbox.reruns import SPARE_MS, Rerun, RerunLoader, differences
from tests.support.programs import FakeLoader
from tests.workers.builders import make_program, make_task
from tests.workers.javascript.scripts import program
from tests.workers.javascript.suspensions import MAY_CALL, good
from tests.workers.sandbox.test_sandbox import tool


@dataclass
class Astray:
    """A real program in a world that changes from run to run."""

    program: Program
    change: Callable[[Task, int], Task]
    tasks: list[Task] = field(default_factory=list)

    def run(self, task: Task) -> Execution:
        self.tasks.append(task)
        return self.program.run(self.change(task, len(self.tasks)))

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        self.tasks.append(task)
        return self.program.resume(self.change(task, len(self.tasks)), image, answers)


def unseeded(task: Task, number: int) -> Task:
    return replace(task, seed=number)


@dataclass
class Scripted:
    """A program that ends as it is told."""

    executions: list[Execution]
    tasks: list[Task] = field(default_factory=list)

    def run(self, task: Task) -> Execution:
        self.tasks.append(task)
        return self.executions[len(self.tasks) - 1]

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        return self.run(task)


def completed(value: bytes = b"1", **usage: Any) -> Execution:
    return Execution(Completed(Usage(**usage), value), {})


def failed(reason: Reason) -> Execution:
    return Execution(Failed(Usage(), reason, "no"), {})


EVERYTHING = """
$state.n = ($state.n ?? 0) + 1;
$emit("counted", Math.random());
console.log("at", Date.now());
if ($args === "fail") throw new Error(String(Math.random()));
return [Math.random(), Date.now(), $state.n];
"""


@pytest.mark.parametrize("args", [b"null", b'"fail"'])
def test_handler_that_replays_ends_as_if_it_ran_once(args: bytes) -> None:
    once = program(EVERYTHING).run(make_task(args=args, state={"n": b"4"}))
    inner = Astray(program(EVERYTHING), lambda task, _: task)
    state = {"n": b"4"}
    twice = Rerun(inner).run(make_task(args=args, state=state))
    assert len(inner.tasks) == 2
    assert list(differences(once, twice)) == []
    assert len(twice.outcome.log) == 1
    assert twice.changes == once.changes
    assert state == {"n": b"4"}


def test_module_that_replays_says_nothing() -> None:
    module = make_program("(call $result (i32.const 16) (i32.const 2)) (i32.const 0)", data={16: "42"})
    execution = Rerun(module).run(make_task())
    assert isinstance(execution.outcome, Completed)
    assert (execution.outcome.return_value, execution.outcome.log) == (b"42", ())


def test_handler_that_would_not_replay_says_what_differs_and_keeps_its_first_effects() -> None:
    source = "$state.n = Math.random(); $emit('e', 1); return $state.n;"
    execution = Rerun(Astray(program(source), unseeded)).run(make_task())
    outcome = execution.outcome
    assert isinstance(outcome, Completed)
    (line,) = outcome.log
    assert "differs in returnValue, mutations" in line.text
    assert line.text.startswith("would not replay: ")
    only = program(source).run(make_task(seed=1))
    assert isinstance(only.outcome, Completed)
    assert (outcome.return_value, execution.changes) == (only.outcome.return_value, only.changes)


def test_handler_that_fails_once_says_so() -> None:
    source = "if ($args > 1) throw new Error('no'); return 1;"
    inner = Astray(program(source), lambda task, number: replace(task, args=b"%d" % number))
    execution = Rerun(inner).run(make_task())
    assert isinstance(execution.outcome, Completed)
    assert "outcome (completed, and then failed: HANDLER_ERROR)" in execution.outcome.log[0].text


def test_fuel_alone_is_a_difference() -> None:
    source = "let n = 0; for (let i = 0; i < $args; i++) n += 1; return null;"
    inner = Astray(program(source), lambda task, number: replace(task, args=b"%d" % number))
    (line,) = Rerun(inner).run(make_task()).outcome.log
    assert line.text.endswith("differs in fuelConsumed")


def test_handler_that_waits_is_compared_in_each_segment() -> None:
    source = "const a = await $ext.a.b(1); return [a, Math.random()];"
    quiet = Rerun(program(source))
    waiting = quiet.run(make_task(capabilities=MAY_CALL)).outcome
    assert isinstance(waiting, Suspended)
    assert (len(waiting.calls), waiting.log) == (1, ())
    done = quiet.resume(make_task(capabilities=MAY_CALL), waiting.image, [good(1, 7)]).outcome
    assert isinstance(done, Completed)
    assert (json.loads(done.return_value)[0], done.log) == (7, ())
    astray = Rerun(Astray(program(source), unseeded))
    (line,) = astray.resume(make_task(capabilities=MAY_CALL), waiting.image, [good(1, 7)]).outcome.log
    assert "differs in returnValue" in line.text


def test_first_run_that_times_out_has_no_second_one() -> None:
    inner = Scripted([failed(Reason.TIMEOUT)])
    assert Rerun(inner).run(make_task()) == failed(Reason.TIMEOUT)
    assert len(inner.tasks) == 1


def test_second_run_has_the_time_that_is_left() -> None:
    slow = completed(execution_us=1_900_000)
    inner = Scripted([slow, failed(Reason.TIMEOUT)])
    execution = Rerun(inner).run(make_task(limits={"deadline_ms": 2_000}))
    assert [task.limits.deadline_ms for task in inner.tasks] == [2_000, 100 + SPARE_MS]
    assert execution == slow, "it did not get its whole time, so nothing is known"


def test_second_run_that_times_out_in_its_whole_time_is_a_difference() -> None:
    inner = Scripted([completed(execution_us=400_000), failed(Reason.TIMEOUT)])
    (line,) = Rerun(inner).run(make_task()).outcome.log
    assert "failed: TIMEOUT" in line.text
    assert inner.tasks[0].limits == inner.tasks[1].limits


def test_no_time_left_means_no_second_run() -> None:
    late = completed(execution_us=2_600_000)
    inner = Scripted([late])
    assert Rerun(inner).run(make_task(limits={"deadline_ms": 2_000})) == late


def test_fuel_that_is_not_known_is_not_compared() -> None:
    assert list(differences(completed(fuel=-1), completed(fuel=5))) == []
    assert list(differences(completed(fuel=4), completed(fuel=5))) == ["fuelConsumed"]
    longer = Execution(msgspec.structs.replace(completed().outcome, events=(b"{}",)), {})
    assert list(differences(completed(), longer)) == ["events"]


def test_loader_wraps_what_is_there() -> None:
    inner = Scripted([completed(b"1"), completed(b"2")])
    loader = RerunLoader(FakeLoader({b"d": inner}))
    assert loader.load(tool(digest=b"none")) is None
    loaded = loader.load(tool())
    assert loaded is not None
    assert loaded.run(make_task()).outcome.log[0].text.endswith("returnValue")
