"""Runs jobs on replicas, one at a time, in the order in which they came. No I/O but what programs do.

What it keeps, and the bounds:

- the queue: unbounded by itself; the owner stops feeding above ``HIGH_WATER`` messages;
- tools: ``max_tools`` definitions, the one not used for longest is dropped (its next job answers Missing);
- programs: ``max_programs`` loaded artifacts, likewise;
- replicas: by bytes, see ``replica``.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from time import monotonic
from typing import Final, Protocol

from panels_shared.errors import LimitError, WireError
from panels_shared.limits import Limits
from panels_shared.messages import (
    Delta,
    Forget,
    Job,
    Missing,
    Result,
    Resume,
    Revoke,
    Snapshot,
    Tool,
    ToWorker,
)
from panels_shared.outcome import Failed, Reason, Usage
from panels_worker.guest.capabilities import Capabilities
from panels_worker.guest.task import Program, Task
from panels_worker.sandbox.replica import Replicas

logger = logging.getLogger("panels.worker.sandbox")

#: Messages waiting above which the owner reads no more; ZeroMQ then holds the gateway back.
HIGH_WATER: Final = 1_024

_LIMIT_FIELDS: Final = tuple(field.name for field in fields(Limits))


class Loader(Protocol):
    """Loads programs."""

    def load(self, tool: Tool) -> Program | None:
        """The program of ``tool``, or None when its artifact is not there or not authentic."""
        ...


@dataclass(slots=True)
class Binding:
    """A tool's definition, unpacked once for all of its jobs."""

    name: str
    digest: bytes
    limits: Limits
    capabilities: Capabilities
    tool: Tool


class Sandbox:
    """The state of a sandbox process between two messages from the gateway.

    ``started`` and ``finished`` count jobs; while they differ one is running, which began at ``started_s``
    (monotonic seconds). Another thread may read them.
    """

    __slots__ = (
        "_bindings",
        "_loader",
        "_max_programs",
        "_max_tools",
        "_programs",
        "_replicas",
        "defect",
        "finished",
        "queue",
        "started",
        "started_s",
    )

    def __init__(
        self, loader: Loader, *, replicas: Replicas, max_programs: int = 256, max_tools: int = 65_536
    ) -> None:
        self.queue: deque[ToWorker] = deque()
        self.started = 0
        self.started_s = 0.0
        self.finished = 0
        #: A program raised, which none may: this process can no longer be relied on.
        self.defect = False
        self._loader = loader
        self._replicas = replicas
        self._max_programs = max_programs
        self._max_tools = max_tools
        self._bindings: OrderedDict[int, Binding] = OrderedDict()
        self._programs: OrderedDict[bytes, Program] = OrderedDict()

    def accept(self, messages: Sequence[ToWorker]) -> None:
        """Queues ``messages``, and takes revoked jobs out of the queue at once."""
        self.queue.extend(messages)
        for message in messages:
            if type(message) is Revoke:
                self._revoke(message)

    def run_next(self) -> Result | Missing | None:
        """Takes one message from the queue, which must not be empty. Returns the answer if it is a job.

        Raises ``WireError`` when the gateway sent what no gateway sends.
        """
        message = self.queue.popleft()
        if type(message) is Job or type(message) is Resume:
            return self._run(message)
        self._apply(message)
        return None

    def reset(self) -> None:
        """Forgets everything that the gateway said; loaded programs are content-addressed and stay."""
        self.queue.clear()
        self._bindings.clear()
        self._replicas.clear()

    def _run(self, job: Job | Resume) -> Result | Missing:
        key = job.tool
        binding = self._bindings.get(key)
        if binding is None:
            return Missing(job.job, "tool")
        replica = self._replicas.acquire(job.panel, job.epoch, job.index, job.committed)
        if replica is None:
            return Missing(job.job, "replica")
        self._bindings.move_to_end(key)
        digest = binding.digest
        program = self._programs.get(digest)
        if program is not None:
            self._programs.move_to_end(digest)
        else:
            program = self._load(binding.tool)
            if program is None:
                return Missing(job.job, "artifact")
        task = Task(
            binding.name,
            job.args if type(job) is Job else b"null",
            job.scope,
            job.now_ms,
            job.seed,
            binding.limits,
            binding.capabilities,
            replica.state,
        )
        self.started_s = monotonic()
        self.started += 1
        try:
            if type(job) is Resume:
                outcome, changes = program.resume(task, job.image, job.answers)
            else:
                outcome, changes = program.run(task)
        except Exception:
            logger.exception("a program raised", extra={"tool": binding.name, "job": job.job})
            self.defect = True
            outcome, changes = Failed(Usage(), Reason.TRAP, "The sandbox had an internal error."), {}
        self.finished += 1
        self._replicas.advance(replica, changes)
        return Result(job.job, outcome)

    def _apply(self, message: ToWorker) -> None:
        if isinstance(message, Delta):
            self._replicas.rebase(
                message.panel, message.epoch, message.base_epoch, message.base_index, message.changes
            )
        elif isinstance(message, Snapshot):
            self._replicas.begin(message.panel, message.epoch, message.state)
        elif isinstance(message, Tool):
            self._define(message)
        elif isinstance(message, Forget):
            self._replicas.drop(message.panel)
            for tool in message.tools:
                self._bindings.pop(tool, None)
        elif not isinstance(message, Revoke):  # which was obeyed when it came
            raise WireError(f"expected a message for a sandbox, got {type(message).__name__}")

    def _define(self, tool: Tool) -> None:
        try:
            limits = Limits(**dict(zip(_LIMIT_FIELDS, tool.limits, strict=True)))
        except LimitError as exc:
            raise WireError(str(exc)) from None
        capabilities = Capabilities.of(tool.capabilities)
        self._bindings[tool.tool] = Binding(tool.name, tool.digest, limits, capabilities, tool)
        self._bindings.move_to_end(tool.tool)
        if len(self._bindings) > self._max_tools:
            self._bindings.popitem(last=False)

    def _load(self, tool: Tool) -> Program | None:
        program = self._loader.load(tool)
        if program is not None:
            self._programs[tool.digest] = program
            if len(self._programs) > self._max_programs:
                self._programs.popitem(last=False)
        return program

    def _revoke(self, revoke: Revoke) -> None:
        panel, epoch = revoke.panel, revoke.epoch
        kept = [
            message
            for message in self.queue
            if not (isinstance(message, Job | Resume) and message.panel == panel and message.epoch <= epoch)
        ]
        if len(kept) < len(self.queue):
            self.queue.clear()
            self.queue.extend(kept)
