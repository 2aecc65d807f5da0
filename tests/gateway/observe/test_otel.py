"""Spans on their way to a collector."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from panels_gateway.observe.otel import OtelExport
from panels_gateway.observe.tracing import Span


def exported(*spans: Span) -> list[Any]:
    memory = InMemorySpanExporter()
    export = OtelExport(time.monotonic, memory)
    for span in spans:
        export(span)
    export.close()
    return list(memory.get_finished_spans())


def test_span_is_exported_as_it_was() -> None:
    now_s = time.monotonic()
    before_ns = time.time_ns()
    (span,) = exported(Span("trigger t", "server", 5, 7, 6, now_s - 2, now_s - 1, {"a": 1}, "TRAP"))
    assert (span.name, span.kind) == ("trigger t", SpanKind.SERVER)
    assert (span.context.trace_id, span.context.span_id) == (5, 7)
    assert (span.parent.span_id, span.parent.is_remote) == (6, True)
    assert span.attributes == {"a": 1}
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "TRAP")
    assert abs(span.end_time - span.start_time - 10**9) < 1_000
    assert span.end_time <= before_ns


def test_span_without_a_parent_is_a_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    (span,) = exported(Span("queue", "internal", 5, 7, 0, 1.0, 2.0, {}))
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert span.resource.attributes["service.name"] == "panels-gateway"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    (span,) = exported(Span("queue", "internal", 5, 7, 0, 1.0, 2.0, {}))
    assert span.resource.attributes["service.name"] == "mine"
