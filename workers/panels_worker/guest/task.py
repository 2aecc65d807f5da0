"""The seam between the worker's loop and what it runs: a job as the sandbox sees it, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from panels_shared.limits import Limits
from panels_shared.messages import Answered
from panels_shared.outcome import Outcome
from panels_worker.guest.capabilities import Capabilities


@dataclass(slots=True)
class Task:
    """One job.

    ``args`` and ``scope`` are JSON. ``state`` is the panel's replica, which a program only reads.
    """

    tool: str
    args: bytes
    scope: bytes
    now_ms: float
    seed: int
    limits: Limits
    capabilities: Capabilities
    state: Mapping[str, bytes]


class Execution(NamedTuple):
    """How a task ended. ``changes`` is what the replica takes over (None for a deleted key): {} for a
    task that failed.
    """

    outcome: Outcome
    changes: Mapping[str, bytes | None]


class Program(Protocol):
    """A prepared handler, loaded into this process."""

    def run(self, task: Task) -> Execution:
        """Runs the handler in a pristine instance. Never raises for anything that a guest does."""
        ...

    def resume(self, task: Task, image: bytes, answers: Sequence[Answered]) -> Execution:
        """Goes on with the handler that was suspended as ``image``, by giving it ``answers`` in their order.

        ``task.args`` is not looked at. Never raises, whatever the image is: one that does not fit fails as
        RESUME_FAILED.
        """
        ...
