"""Fake programs and a fake loader for what runs programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from panels_shared.messages import Answered, Tool
from panels_shared.outcome import Completed, Failed, Reason, Usage
from panels_worker.guest.task import Execution, Program, Task


@dataclass
class FunctionProgram:
    """A program that is a Python function from state and arguments to changes; a ValueError fails the job."""

    function: Callable[[Mapping[str, bytes], object], dict[str, bytes | None]]
    tasks: list[Task] = field(default_factory=list)
    resumed: list[tuple[bytes, Sequence[Answered]]] = field(default_factory=list)

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        """Runs the function with the first answer's value as its arguments."""
        self.resumed.append((image, answers))
        return self.run(replace(task, args=answers[0].value))

    def run(self, task: Task) -> Execution:
        self.tasks.append(task)
        try:
            changes = self.function(task.state, json.loads(task.args))
        except ValueError as exc:
            return Execution(Failed(Usage(), Reason.HANDLER_ERROR, str(exc)), {})
        return Execution(Completed(Usage()), changes)


@dataclass
class FakeLoader:
    """Programs by digest; ``loads`` are the digests asked for."""

    programs: dict[bytes, Program] = field(default_factory=dict)
    loads: list[bytes] = field(default_factory=list)

    def load(self, tool: Tool) -> Program | None:
        self.loads.append(tool.digest)
        return self.programs.get(tool.digest)
