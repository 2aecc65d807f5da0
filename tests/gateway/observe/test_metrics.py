"""Metrics: names, bounded labels, and the text that Prometheus reads."""

from __future__ import annotations

import re

from panels_gateway.bus.broker import BrokerCounters
from panels_gateway.observe.metrics import (
    FAMILIES,
    HTTP_REQUESTS,
    PANELS,
    HttpCounters,
    Sample,
    collect,
    exposition,
)
from tests.support.fake_kernel import FakeKernel

_LINE = re.compile(r'[a-z_]+(\{[a-z]+="[A-Za-z0-9_.]+"\})? [0-9.e+-]+')


def test_exposition_writes_each_family_once_and_its_samples_below() -> None:
    samples = [Sample(PANELS, 3), Sample(HTTP_REQUESTS, 1, "200"), Sample(HTTP_REQUESTS, 2, "404")]
    assert exposition(samples).decode() == (
        "# HELP panels_panels Panels there are.\n# TYPE panels_panels gauge\npanels_panels 3\n"
        "# HELP panels_http_requests_total HTTP requests, by status.\n# TYPE panels_http_requests_total counter\n"
        'panels_http_requests_total{status="200"} 1\npanels_http_requests_total{status="404"} 2\n'
    )


def test_collect_yields_valid_lines_grouped_by_family() -> None:
    counters = HttpCounters()
    counters.count_request(200)
    counters.count_rejected_upgrade(401)
    samples = list(collect(FakeKernel().as_kernel(), counters, BrokerCounters()))
    order = list(dict.fromkeys(sample.family for sample in samples))
    assert order == [family for family in FAMILIES if family in order]
    assert [s.family for s in samples] == sorted((s.family for s in samples), key=order.index)
    for line in exposition(samples).decode().splitlines():
        assert line.startswith("# ") or _LINE.fullmatch(line), line


def test_families_are_named_by_convention() -> None:
    for family in FAMILIES:
        assert family.name.startswith("panels_")
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert family.help.endswith(".")
