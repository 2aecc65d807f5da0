"""A trigger: what somebody asked a panel to run, as it was accepted. It never changes.

Where it stands on its way (its lane, its worker, how often it was sent) is the dispatcher's ``Run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from panels_gateway.journal.records import Key
from panels_gateway.observe.tracing import Context
from panels_gateway.panels.panel import Panel
from panels_shared.errors import Code
from panels_shared.messages import Answered, Tool
from panels_shared.outcome import Completed, Failed


class Succeeded(msgspec.Struct, frozen=True, gc=False):
    """The handler ran to its end and its effects are committed: as version ``seq``, or none where it had no
    effects.

    ``queue_us`` is how long the trigger waited in the gateway and ``total_us`` how long it took in all, in
    microseconds.
    """

    outcome: Completed
    seq: int
    queue_us: int
    total_us: int


class Failure(msgspec.Struct, frozen=True, gc=False):
    """The handler failed, or no worker could run it. Nothing was committed."""

    outcome: Failed


class Refused(msgspec.Struct, frozen=True):
    """The trigger was not run: a queue was full, or its panel or tool went away while it waited."""

    code: Code
    message: str
    details: Mapping[str, object] | None = None


Answer = Succeeded | Failure | Refused


class Progress(msgspec.Struct, frozen=True):
    """The handler waits: as ``suspension``, for ``extension.method``, with ``steps`` segments committed."""

    suspension: str
    extension: str
    method: str
    steps: int


class Resumption(msgspec.Struct, frozen=True):
    """Where a handler that waited goes on: from ``image``, with these answers to its calls."""

    suspension: int
    image: bytes
    answers: tuple[Answered, ...]


class ReplyTo(Protocol):
    """Whoever waits for a trigger's answer: a connection, an HTTP request, a timer, a test."""

    def answer(self, trigger: Trigger, answer: Answer) -> None:
        """Takes the one answer to ``trigger``. Called in the turn that decided it, before that turn is
        durable: what is to leave the process must go through the turn."""
        ...

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        """The handler waits for an extension; any number of times before the answer."""
        ...


class _Nobody:
    def answer(self, trigger: Trigger, answer: Answer) -> None:
        pass

    def progress(self, trigger: Trigger, progress: Progress) -> None:
        pass


#: For a trigger that nobody waits for, as after a restart.
NOBODY: Final[ReplyTo] = _Nobody()


class Trigger(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What was asked. ``args`` and ``scope`` are JSON; ``now_ms`` (wall clock, milliseconds) and ``seed`` (64
    bits) are the only clock and randomness that the handler will see; ``submitted_s`` is the gateway's
    monotonic clock. ``subject`` is whom quotas and circuit breakers count, "" for callers without one.
    ``key`` is the idempotency key that it came under, None for none; ``request_id`` is only
    given back. ``expected_seq`` is the version that the panel must have when it runs, None for any.
    ``depth`` counts the panels that triggered one another up to this one. ``due_ms`` is the due time that a
    tool runs for by itself. ``resume`` is where a handler that waited goes on; its ``args`` are empty then.
    ``trace`` says where its spans hang, None where it is not traced.
    """

    panel: Panel
    tool: Tool
    args: bytes
    scope: bytes
    now_ms: float
    seed: int
    submitted_s: float
    reply_to: ReplyTo
    subject: str = ""
    request_id: str | None = None
    key: Key | None = None
    expected_seq: int | None = None
    depth: int = 0
    due_ms: int | None = None
    resume: Resumption | None = None
    trace: Context | None = None

    def with_tool(self, tool: Tool) -> Trigger:
        """The same trigger, to be run by ``tool``: its panel was given another definition before it ran."""
        return msgspec.structs.replace(self, tool=tool)
