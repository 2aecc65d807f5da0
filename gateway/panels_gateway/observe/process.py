"""What the system says of this process, under the names that dashboards of other programs use too.

By ``prometheus_client``, which knows these names and how to read them; it reads /proc when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from prometheus_client.process_collector import ProcessCollector

from panels_gateway.observe.metrics import Family, Sample

_KINDS: Final[dict[str, Literal["counter", "gauge"]]] = {"counter": "counter", "gauge": "gauge"}


class ProcessMetrics:
    """CPU time, memory, descriptors and start of the gateway's process. A look costs some 50 µs."""

    __slots__ = ("_collector",)

    def __init__(self) -> None:
        # in no registry: the one of the process would add what nobody asked for
        self._collector = ProcessCollector(registry=None)

    def samples(self) -> Iterator[Sample]:
        """The current values, as far as the system tells them."""
        for metric in self._collector.collect():
            for sample in metric.samples:
                yield Sample(Family(sample.name, _KINDS[metric.type], metric.documentation), sample.value)
