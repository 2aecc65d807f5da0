"""What /metrics collects: valid, grouped, and all of what is counted."""

from __future__ import annotations

import dataclasses
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from panels_gateway.dispatch.dispatcher import Dispatcher, DispatchLimits
from panels_gateway.http.metrics import Metrics
from panels_gateway.observe.catalog import OWN
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters, RefusalCounters
from panels_gateway.observe.metrics import BUS, DISPATCH, OUTBOX_BYTES, POOLS, SLOW_CONSUMERS
from panels_gateway.observe.pools import COUNTS, LEVELS
from panels_gateway.observe.top_panels import WINDOW_S
from panels_shared.errors import Code
from panels_shared.outcome import Failed, Reason, Usage
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

_LINE = re.compile(r'[a-z_]+(\{([a-z]+="[A-Za-z0-9_.]+",?)?(le="([0-9.e+-]+|\+Inf)")?\})? [0-9.e+-]+')


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
    assert order == [family for family in OWN if family in order]
    assert families == sorted(families, key=order.index)
    for line in metrics.exposition().decode().splitlines():
        assert line.startswith("# ") or _LINE.fullmatch(line), line


async def test_slow_consumers_are_shown() -> None:
    metrics, _, clients = made()
    clients.slow_consumers += 2
    clients.outboxes.bytes += 70
    assert [sample.value for sample in metrics.samples() if sample.family is SLOW_CONSUMERS] == [2]
    assert [sample.value for sample in metrics.samples() if sample.family is OUTBOX_BYTES] == [70]


def test_everything_that_is_counted_has_a_metric() -> None:
    assert Dispatcher().stats().keys() == DISPATCH.keys()
    assert {field.name for field in dataclasses.fields(BrokerCounters)} == BUS.keys()
    assert {*LEVELS, *COUNTS} == POOLS.keys()


async def test_everything_that_is_shown_is_read_by_prometheus_own_parser() -> None:
    metrics, _, _ = made()
    text = metrics.exposition(panels=True).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation for family in families.values())
    assert families["panels_triggers_refused"].type == "counter"
    assert families["panels_trigger_seconds"].type == "histogram"
    assert families["process_cpu_seconds"].type == "counter"


async def test_panels_are_named_to_administrators_alone() -> None:
    gateway = Gateway()
    metrics = Metrics(
        gateway.kernel,
        http=HttpCounters(),
        clients=ClientCounters(),
        bus=BrokerCounters(),
        refusals=RefusalCounters(),
    )
    resident = await gateway.add("secret-panel")
    await gateway.trigger(resident)
    gateway.respond = lambda call: Failed(Usage(fuel=1), Reason.HANDLER_ERROR, "no")
    for _ in range(2):
        await gateway.trigger(resident)
    gateway.now_s += WINDOW_S
    gateway.kernel.tick()
    assert "secret-panel" not in metrics.exposition().decode()
    lines = metrics.exposition(panels=True).decode().splitlines()
    assert 'panels_panel_fuel{panel="secret-panel"} 9' in lines
    assert 'panels_panel_fuel{panel="(others)"} 0' in lines
    assert 'panels_panel_failures{panel="secret-panel"} 2' in lines
    assert 'panels_panel_failures{panel="(others)"} 0' in lines


async def test_triggers_are_counted_by_outcome_and_their_whole_time_is_measured() -> None:
    gateway = Gateway(dispatch=DispatchLimits(queue_total=1))
    resident = await gateway.add("p")
    await gateway.trigger(resident)
    gateway.respond = lambda call: None
    gateway.submit(resident)
    gateway.submit(resident)
    await gateway.settle()
    counters, whole = gateway.kernel.counters, gateway.kernel.stages.whole
    assert (counters.completed, counters.refused[Code.OVERLOADED]) == (1, 1)
    gateway.now_s += 3.0
    gateway.answer_held(Failed(Usage(), Reason.TRAP, "unreachable"))
    await gateway.settle()
    assert sum(whole["completed"].counts) == 1
    assert (sum(whole["failed"].counts), whole["failed"].sum_s) == (1, 3.0)
