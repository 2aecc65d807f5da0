"""For development: every job runs twice, and a handler says so if it would not replay.

A record of a job holds all that a handler may depend on: state, arguments, scope, clock and seed. The second
run gets the same, in a pristine instance of its own, and has no effects: what it changes, emits, calls and
logs is compared and dropped. Where the runs differ, the first one's log has a line more; its outcome counts.

The second run has what is left of the time that the gateway gives a job, so that a slow handler fails no
other way than it would fail alone. A first run that timed out has no second one, and a second run that did
not get the tool's whole time and timed out says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from panels_shared.limits import MAX_ELEMENTS
from panels_shared.messages import Answered, Tool
from panels_shared.outcome import Completed, Failed, LogLine, Outcome, Reason, Suspended
from panels_worker.guest.task import Execution, Program, Task
from panels_worker.sandbox.sandbox import Loader

#: Milliseconds beyond a tool's own time that both runs together may take; the gateway waits for longer.
SPARE_MS: Final = 500
_WARNING: Final = 2
#: Protocol names of what outcomes have in common, by their fields.
_COMPARED: Final = {
    "return_value": "returnValue",
    "mutations": "mutations",
    "events": "events",
    "view_commands": "viewCommands",
    "calls": "calls",
    "reason": "reason",
    "message": "message",
    "log": "log",
}


class RerunLoader:
    """Loads programs that run every job twice."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def load(self, tool: Tool) -> Program | None:
        """The program of ``tool``, or None when its artifact is not there or not authentic."""
        program = self._loader.load(tool)
        return None if program is None else Rerun(program)


class Rerun:
    """A program that runs every job twice; see the module's docstring."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, task: Task) -> Execution:
        """See ``task.Program``."""
        return _compared(self._program.run, task)

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        """See ``task.Program``."""
        return _compared(lambda task: self._program.resume(task, image, answers), task)


def _compared(run: Callable[[Task], Execution], task: Task) -> Execution:
    first = run(task)
    outcome = first.outcome
    if isinstance(outcome, Failed) and outcome.reason is Reason.TIMEOUT:
        return first
    whole_ms = task.limits.deadline_ms
    left_ms = min(whole_ms, whole_ms + SPARE_MS - outcome.usage.execution_us // 1_000)
    if left_ms < 1:
        return first
    second = run(replace(task, limits=replace(task.limits, deadline_ms=left_ms)))
    timed_out = isinstance(second.outcome, Failed) and second.outcome.reason is Reason.TIMEOUT
    if (timed_out and left_ms < whole_ms) or len(outcome.log) >= MAX_ELEMENTS:
        return first
    found = ", ".join(differences(first, second))
    if not found:
        return first
    line = LogLine(
        _WARNING,
        f"would not replay: a second run on the same state, arguments, clock and seed differs in {found}",
    )
    return Execution(msgspec.structs.replace(outcome, log=(*outcome.log, line)), first.changes)


def differences(first: Execution, second: Execution) -> Iterator[str]:
    """What two runs of a job differ in, by the protocol's names: ``outcome`` where they ended in different
    ways.
    """
    one, other = first.outcome, second.outcome
    if type(one) is not type(other):
        yield f"outcome ({_ending(one)}, and then {_ending(other)})"
        return
    for field, name in _COMPARED.items():
        if getattr(one, field, None) != getattr(other, field, None):
            yield name
    if one.usage.fuel != other.usage.fuel and min(one.usage.fuel, other.usage.fuel) >= 0:
        yield "fuelConsumed"


def _ending(outcome: Outcome) -> str:
    match outcome:
        case Completed():
            return "completed"
        case Suspended():
            return "waits"
        case Failed():
            return f"failed: {outcome.reason.value}"
