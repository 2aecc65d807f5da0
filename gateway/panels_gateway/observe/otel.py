"""Takes spans to a collector by OTLP over HTTP. The one module that knows OpenTelemetry, which is an extra.

Where to, by which headers, and how much at a time is told by OpenTelemetry's own environment variables
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``, ``OTEL_BSP_MAX_QUEUE_SIZE`` and so on).

Spans are sent by a thread of the SDK's. Its queue is bounded; what does not fit is dropped, and the SDK says
so in the log. Nothing here waits for a collector, but ``close``, for as long as ``OTEL_BSP_EXPORT_TIMEOUT``
says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from panels_gateway.observe.tracing import Span
from panels_shared import __version__

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SCOPE: Final = InstrumentationScope("panels", __version__)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


class OtelExport:
    """See the module's docstring. ``clock`` is the one of the spans' times; ``exporter`` None for OTLP."""

    def __init__(self, clock: Callable[[], float], exporter: SpanExporter | None = None) -> None:
        self._clock = clock
        named: dict[str, str] = {SERVICE_VERSION: __version__}
        if not os.environ.get("OTEL_SERVICE_NAME"):
            named[SERVICE_NAME] = "panels-gateway"
        self._resource = Resource.create(named)
        self._processor = BatchSpanProcessor(exporter or OTLPSpanExporter())

    def __call__(self, span: Span) -> None:
        """Takes a span that has ended."""
        offset_s = time.time() - self._clock()
        failed = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET)
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context=_context(span.trace_id, span.span_id, remote=False),
                parent=_context(span.trace_id, span.parent_id, remote=span.kind == "server")
                if span.parent_id
                else None,
                resource=self._resource,
                attributes=dict(span.attributes),
                kind=_KINDS[span.kind],
                status=failed,
                start_time=int((span.began_s + offset_s) * 1e9),
                end_time=int((span.ended_s + offset_s) * 1e9),
                instrumentation_scope=_SCOPE,
            )
        )

    def close(self) -> None:
        """Sends what is left, and ends the thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _context(trace_id: int, span_id: int, *, remote: bool) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=_SAMPLED)
