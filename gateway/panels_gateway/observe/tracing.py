"""Traces: which spans come of a trigger, and where they hang. Pure: ``otel`` takes them out of the process.

    caller's span (traceparent)
    └── trigger TOOL          from the gateway's taking it to its commit
        ├── queue             until it was sent to a worker
        ├── run               on the worker, as the worker says
        ├── call NAME.METHOD  the handler waits for an extension, which is told this span as its parent
        └── trigger TOOL      the next step of a handler that waited, with a queue and a run of its own

Ids are made when a trigger is taken, so that a span can be named as a parent before it has ended. Times are
seconds of the gateway's monotonic clock. A trigger that is not sampled has no context, and costs nothing from
there on. Contexts are not recorded: what goes on after a restart of the gateway is in no trace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

#: W3C Trace Context: version, trace id, parent id, flags. Later versions may have more behind it.
_PATTERN: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII
)
#: Characters of a traceparent that are looked at; a security limit.
MAX_CHARS: Final = 128

Attributes = Mapping[str, str | int]


class Context(NamedTuple):
    """Where a trigger's spans hang: ``span_id`` is that of the trigger's own, ``parent_id`` the caller's, 0
    for none.
    """

    trace_id: int
    parent_id: int
    span_id: int

    def below(self, span_id: int) -> Context:
        """The context of another step of the same trigger."""
        return Context(self.trace_id, self.span_id, span_id or 1)


class Span(NamedTuple):
    """A span that has ended. ``kind`` is ``server``, ``client`` or ``internal``; ``error`` says why it
    failed, "" if it did not.
    """

    name: str
    kind: str
    trace_id: int
    span_id: int
    parent_id: int
    began_s: float
    ended_s: float
    attributes: Attributes
    error: str = ""


def traceparent(trace_id: int, span_id: int) -> str:
    """The header for a callee of that span, which is sampled."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"


class Tracing:
    """See the module's docstring.

    ``export`` takes the spans. A trigger that comes with a traceparent is sampled if its caller was;
    ``ratio`` (0 to 1) is how many of the others are.
    """

    def __init__(
        self, export: Callable[[Span], None], *, ratio: float, random_bits: Callable[[int], int]
    ) -> None:
        self._export = export
        self._bound = int(ratio * (1 << 32))
        self._random_bits = random_bits

    def take(self, given: str | None) -> Context | None:
        """The context of a trigger that comes with this traceparent, None if it is not sampled. One that is
        not well-formed is as good as none.
        """
        if given is not None and len(given) <= MAX_CHARS and (found := _PATTERN.fullmatch(given)) is not None:
            if not int(found[3], 16) & 1:
                return None
            return Context(int(found[1], 16), int(found[2], 16), self.new_id())
        if self._random_bits(32) >= self._bound:
            return None
        return Context(self._random_bits(128) or 1, 0, self.new_id())

    def new_id(self) -> int:
        """An id for a span."""
        return self._random_bits(64) or 1

    def ran(
        self,
        context: Context,
        tool: str,
        *,
        submitted_s: float,
        sent_s: float,
        execution_us: int,
        now_s: float,
        attributes: Attributes,
        worker: Attributes,
        error: str = "",
    ) -> None:
        """A trigger came back from a worker, which says that it ran for ``execution_us`` microseconds."""
        trace_id, _, span_id = context
        export = self._export
        began_s = max(sent_s, now_s - execution_us / 1e6)
        self.ended(context, tool, submitted_s=submitted_s, now_s=now_s, attributes=attributes, error=error)
        export(Span("queue", "internal", trace_id, self.new_id(), span_id, submitted_s, sent_s, {}))
        export(Span("run", "internal", trace_id, self.new_id(), span_id, began_s, now_s, worker, error))

    def ended(
        self,
        context: Context,
        tool: str,
        *,
        submitted_s: float,
        now_s: float,
        attributes: Attributes,
        error: str,
    ) -> None:
        """A trigger is over, whether it was run or not."""
        trace_id, parent_id, span_id = context
        self._export(
            Span(
                f"trigger {tool}",
                "server",
                trace_id,
                span_id,
                parent_id,
                submitted_s,
                now_s,
                attributes,
                error,
            )
        )

    def called(
        self,
        context: Context,
        span_id: int,
        name: str,
        *,
        made_s: float,
        now_s: float,
        attributes: Attributes,
        error: str = "",
    ) -> None:
        """A call of a handler that waited was answered."""
        trace_id, _, parent_id = context
        self._export(
            Span(f"call {name}", "client", trace_id, span_id, parent_id, made_s, now_s, attributes, error)
        )
