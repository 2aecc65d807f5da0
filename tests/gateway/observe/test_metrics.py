"""Metrics: their names, and the text that Prometheus reads."""

from __future__ import annotations

from panels_gateway.observe.metrics import (
    BUS,
    DISPATCH,
    FAMILIES,
    HTTP_REQUESTS,
    PANELS,
    Sample,
    by_status,
    exposition,
)
from panels_gateway.observe.stages import STAGE_SECONDS


def test_exposition_writes_each_family_once_and_its_samples_below() -> None:
    samples = [Sample(PANELS, 3), *by_status(HTTP_REQUESTS, {404: 2, 200: 1})]
    assert exposition(samples).decode() == (
        "# HELP panels_panels Panels there are.\n# TYPE panels_panels gauge\npanels_panels 3\n"
        "# HELP panels_http_requests_total HTTP requests, by status.\n# TYPE panels_http_requests_total counter\n"
        'panels_http_requests_total{status="200"} 1\npanels_http_requests_total{status="404"} 2\n'
    )


def test_exposition_writes_the_parts_of_a_histogram() -> None:
    samples = [
        Sample(STAGE_SECONDS, 1, "queue", "_bucket", "0.5"),
        Sample(STAGE_SECONDS, 0.25, "queue", "_sum"),
        Sample(STAGE_SECONDS, 1, "queue", "_count"),
    ]
    assert exposition(samples).decode().splitlines()[1:] == [
        "# TYPE panels_stage_seconds histogram",
        'panels_stage_seconds_bucket{stage="queue",le="0.5"} 1',
        'panels_stage_seconds_sum{stage="queue"} 0.25',
        'panels_stage_seconds_count{stage="queue"} 1',
    ]


def test_families_are_named_by_convention() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("panels_")
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert family.help.endswith(".")


def test_levels_are_gauges_and_what_only_grows_is_a_counter() -> None:
    levels = {name for name, family in DISPATCH.items() if family.kind == "gauge"}
    assert levels == {
        "jobs", "job_bytes", "waiting", "held", "in_flight", "workers", "pools", "panels", "compiling",
        "compiles_wanted",
    }  # fmt: skip
    assert {family.kind for family in BUS.values()} == {"counter"}
