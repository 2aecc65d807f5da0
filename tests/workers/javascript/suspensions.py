"""Scripts that wait, and whoever answers them, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from panels_shared.handlers import DEFAULT_CAPABILITIES
from panels_shared.messages import Answered
from panels_shared.outcome import Completed, ExtensionCall, Failed, Suspended
from panels_worker.guest.task import Execution, Task
from panels_worker.javascript.program import JavaScriptProgram
from tests.workers.builders import make_task
from tests.workers.javascript.scripts import program

MAY_CALL = (*DEFAULT_CAPABILITIES, "ext:*")


def good(call: int, value: Any = None) -> Answered:
    """An answer of a call that went well."""
    return Answered(call, True, json.dumps(value).encode())


def bad(call: int, code: str = "failed", message: str = "it failed") -> Answered:
    """An answer of a call that did not."""
    return Answered(call, False, json.dumps({"code": code, "message": message}).encode())


@dataclass
class Life:
    """One handler from its trigger to its end, with the state that its segments leave."""

    source: str
    state: dict[str, bytes] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    outcomes: list[Completed | Failed | Suspended] = field(default_factory=list)

    @property
    def program(self) -> JavaScriptProgram:
        """The handler."""
        return program(self.source)

    @property
    def last(self) -> Completed | Failed | Suspended:
        """How its last segment ended."""
        return self.outcomes[-1]

    @property
    def calls(self) -> tuple[ExtensionCall, ...]:
        """What it called in its last segment, which suspended it."""
        assert isinstance(self.last, Suspended), self.last
        return self.last.calls

    def begin(self, args: Any = None) -> Life:
        """Runs the first segment."""
        return self._take(self.program.run(self._task(args=json.dumps(args).encode())))

    def answer(self, *answers: Answered, **task: Any) -> Life:
        """Runs one more segment."""
        assert isinstance(self.last, Suspended), self.last
        return self._take(self.program.resume(self._task(**task), self.last.image, answers))

    def returned(self) -> Any:
        """What it returned."""
        assert isinstance(self.last, Completed), self.last
        return json.loads(self.last.return_value)

    def failure(self) -> Failed:
        """How it failed."""
        assert isinstance(self.last, Failed), self.last
        return self.last

    def _task(self, **changes: Any) -> Task:
        return make_task(**{"capabilities": MAY_CALL, "state": self.state} | self.task | changes)

    def _take(self, execution: Execution) -> Life:
        self.outcomes.append(execution.outcome)
        for key, value in execution.changes.items():
            if value is None:
                del self.state[key]
            else:
                self.state[key] = value
        return self


def begun(source: str, args: Any = None, **task: Any) -> Life:
    """A handler whose first segment has run."""
    return Life(source, task=task).begin(args)


def run_with(life: Life, answer: Callable[[ExtensionCall], Answered], *, most: int = 2_000) -> Life:
    """Answers every call at once, in order, until the handler ends."""
    for _ in range(most):
        if not isinstance(life.last, Suspended):
            return life
        answers: Sequence[Answered] = [answer(call) for call in life.last.calls]
        life.answer(*answers)
    raise AssertionError(f"expected the handler to end within {most} segments")
