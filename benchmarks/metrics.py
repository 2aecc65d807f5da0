"""What counting costs a trigger, and what a scrape costs the loop: ``python -m benchmarks.metrics``.

Compares plain integers, as the gateway counts, with counters and histograms of ``prometheus_client``; and the
gateway's text with what ``prometheus_client`` makes of the same samples.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from panels_gateway.http.metrics import Metrics
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters, RefusalCounters
from panels_gateway.observe.histogram import Histogram as Own
from panels_gateway.observe.metrics import exposition
from panels_gateway.observe.process import ProcessMetrics
from panels_gateway.observe.top_panels import TopPanels
from tests.support.gateway import Gateway

_REPEATS: Final = 7


class _Collector:
    """The gateway's samples as the library wants them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """One metric for each family, in their order."""
        metric: Metric | None = None
        last = None
        for family, value, label, suffix, bound in self._metrics.samples():
            if family is not last:
                if metric is not None:
                    yield metric
                last = family
                metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
            labels = {family.label: label} if family.label else {}
            if bound:
                labels["le"] = bound
            assert metric is not None
            metric.add_sample(family.name + suffix, labels, value)
        if metric is not None:
            yield metric


def _ns(work: Callable[[], object], number: int) -> float:
    """The best of ``_REPEATS`` runs, in nanoseconds for each call."""
    return min(timeit.repeat(work, number=number, repeat=_REPEATS)) / number * 1e9


class _Plain:
    """A counter as the kernel has them."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """One more."""
        self.count += 1


def main() -> None:
    """Prints a line for each."""
    registry = CollectorRegistry()
    counter = Counter("c", "A counter.", registry=registry)
    labelled = Counter("l", "A counter with a label.", ["reason"], registry=registry)
    child = labelled.labels("a")
    histogram = Histogram("h", "A histogram.", registry=registry, buckets=[2**n / 1e6 for n in range(25)])
    plain, own, top = _Plain(), Own(), TopPanels(0.0)
    calls: dict[str, Callable[[], object]] = {
        "nothing (the call alone)": lambda: None,
        "integer += 1": plain.add,
        "Counter.inc": counter.inc,
        "Counter.labels(..).inc": lambda: labelled.labels("a").inc(),
        "Counter.labels(..) kept, inc": child.inc,
        "our Histogram.add_us": lambda: own.add_us(812),
        "Histogram.observe, 25 buckets": lambda: histogram.observe(0.000_812),
        "TopPanels.charge": lambda: top.charge("panel", 1_000),
    }
    for name, work in calls.items():
        print(f"{name:32} {_ns(work, 200_000):8.0f} ns")
    metrics = Metrics(
        Gateway().kernel,
        http=HttpCounters(),
        clients=ClientCounters(),
        bus=BrokerCounters(),
        refusals=RefusalCounters(),
    )
    scrape = CollectorRegistry()
    scrape.register(_Collector(metrics))
    process = ProcessMetrics()
    texts: list[tuple[str, Callable[[], bytes]]] = [
        ("our exposition", lambda: exposition(metrics.samples())),
        ("generate_latest", lambda: generate_latest(scrape)),
        ("ProcessCollector", lambda: exposition(process.samples())),
    ]
    for name, text in texts:
        print(f"{name:32} {_ns(text, 50) / 1e3:8.0f} µs, {len(text()):,} bytes")


if __name__ == "__main__":
    main()
