"""Spans of a whole system, as a collector gets them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # type: ignore[import-untyped,unused-ignore]
    ExportTraceServiceRequest,
)

from tests.support.clients import Client
from tests.support.system import System, eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def given(parent: str) -> str:
    return f"00-{TRACE}-{parent}-01"


@contextmanager
def collecting() -> Iterator[tuple[str, list[Any]]]:
    """The URL of a collector, and the spans that it was sent."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            sent = ExportTraceServiceRequest.FromString(body)
            spans.extend(
                span for every in sent.resource_spans for scope in every.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_trigger_is_traced_from_its_caller_to_its_worker(cache_dir: Path) -> None:
    options = ["--traces", "--trace-ratio", "0"]
    with collecting() as (url, spans), System(cache_dir=cache_dir, gateway=options) as system:
        system.start_gateway(
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        )
        system.start_pool(processes=1)
        system.await_ready()
        tools = [
            {"name": "t", "handler": "return $state.n = ($state.n ?? 0) + 1;"},
            {"name": "w", "handler": "await $ext.time.sleep(1); return 1;", "capabilities": ["ext:time"]},
        ]
        system.http.post("/panels", json={"id": "p", "kind": "k", "tools": tools})
        system.http.post("/panels/p/trigger/t")  # no traceparent, and a ratio of 0
        system.http.post("/panels/p/trigger/t", headers={"traceparent": given("00000000000000a1")})
        system.http.post("/panels/p/trigger/w", headers={"traceparent": given("00000000000000a2")})
        with system.connect("p") as client:
            client.send(
                {"type": "TRIGGER", "tool": "t", "requestId": "1", "traceparent": given("00000000000000a3")}
            )
            client.await_answer("1")
        query = f"?token={system.token()}&traceparent={given('00000000000000a4')}"
        with Client.connect(system.socket_url("p") + query) as client:
            client.send({"type": "TRIGGER", "tool": "t", "requestId": "2"})
            client.await_answer("2")
        assert system.the_gateway().stop() == 0

        def arrived() -> bool:
            return len(spans) >= 5 * 3

        eventually(arrived, what="the spans")
        assert not system.defects()
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    triggers = [span for span in spans if span.name.startswith("trigger ")]
    parents = {span.parent_span_id.hex() for span in triggers}
    assert {f"00000000000000a{number}" for number in range(1, 5)} <= parents
    waited = next(span for span in triggers if span.parent_span_id.hex() == "00000000000000a2")
    (after,) = [span for span in triggers if span.parent_span_id == waited.span_id]
    assert after.start_time_unix_nano >= waited.end_time_unix_nano - 1_000_000
    for span in triggers:
        below = [each for each in spans if each.parent_span_id == span.span_id]
        assert {"queue", "run"} <= {each.name for each in below}
        for each in below:
            if each.name in ("queue", "run"):
                assert span.start_time_unix_nano - 1_000_000 <= each.start_time_unix_nano
                assert each.end_time_unix_nano <= span.end_time_unix_nano + 1_000_000
