"""What /metrics collects: valid, grouped, and all of what is counted."""

from __future__ import annotations

import dataclasses
import re

import pytest

from panels_gateway.dispatch.dispatcher import Dispatcher
from panels_gateway.http.metrics import Metrics
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters, RefusalCounters
from panels_gateway.observe.metrics import BUS, DISPATCH, FAMILIES, SLOW_CONSUMERS
from panels_gateway.observe.stages import STAGE_SECONDS
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

_LINE = re.compile(r'[a-z_]+(\{[a-z]+="[A-Za-z0-9_.]+"(,le="[0-9.e+-]+|,le="\+Inf")?"?\})? [0-9.e+-]+')


def made() -> tuple[Metrics, HttpCounters, ClientCounters]:
    http, clients = HttpCounters(), ClientCounters()
    metrics = Metrics(
        Gateway().kernel, http=http, clients=clients, bus=BrokerCounters(), refusals=RefusalCounters()
    )
    return metrics, http, clients


async def test_samples_are_valid_lines_grouped_by_family() -> None:
    metrics, http, clients = made()
    http.count_request(200)
    clients.count_rejected_upgrade(401)
    families = [sample.family for sample in metrics.samples()]
    order = list(dict.fromkeys(families))
    assert order == [family for family in (*FAMILIES, STAGE_SECONDS) if family in order]
    assert families == sorted(families, key=order.index)
    for line in metrics.exposition().decode().splitlines():
        assert line.startswith("# ") or _LINE.fullmatch(line), line


async def test_slow_consumers_are_shown() -> None:
    metrics, _, clients = made()
    clients.slow_consumers += 2
    assert [sample.value for sample in metrics.samples() if sample.family is SLOW_CONSUMERS] == [2]


def test_everything_that_is_counted_has_a_metric() -> None:
    assert Dispatcher().stats().keys() == DISPATCH.keys()
    assert {field.name for field in dataclasses.fields(BrokerCounters)} == BUS.keys()
