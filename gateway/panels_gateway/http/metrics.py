"""Collects every number of the gateway when somebody asks for ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from panels_gateway.observe import metrics as m
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters
from panels_gateway.observe.metrics import Sample, by_status
from panels_shared import __version__

if TYPE_CHECKING:
    from panels_gateway.kernel.kernel import Kernel


class Metrics:
    """Reads everything that counts and shows it as text, at a cost of O(panels) each time."""

    def __init__(
        self, kernel: Kernel, *, http: HttpCounters, clients: ClientCounters, bus: BrokerCounters
    ) -> None:
        self._kernel = kernel
        self._http = http
        self._clients = clients
        self._bus = bus

    def exposition(self) -> bytes:
        """The current values of all metrics, as text for Prometheus."""
        return m.exposition(self.samples())

    def samples(self) -> Iterator[Sample]:
        """The current values, grouped by family."""
        kernel = self._kernel
        counters = kernel.counters
        yield Sample(m.INFO, 1, __version__)
        yield Sample(m.READY, int(kernel.ready))
        yield Sample(m.PANELS, kernel.making.panels)
        yield Sample(m.STATE_BYTES, kernel.residents.state_bytes)
        yield Sample(m.CONNECTIONS, counters.connections)
        yield Sample(m.CONNECTIONS_TOTAL, counters.connections_total)
        yield from by_status(m.REJECTED, self._clients.upgrades_rejected)
        yield Sample(m.SLOW_CONSUMERS, self._clients.slow_consumers)
        yield Sample(m.TRIGGERS, counters.triggers)
        yield Sample(m.COMPLETED, counters.completed)
        for reason, count in counters.failed.items():
            yield Sample(m.FAILED, count, reason.value)
        yield Sample(m.OVERLOADED, counters.overloaded)
        yield Sample(m.REFUSED_COMMITS, counters.refused_commits)
        yield Sample(m.JOINED, counters.joined)
        yield Sample(m.REPEATED, counters.repeated)
        yield Sample(m.SUSPENSIONS, kernel.suspensions.count)
        yield Sample(m.SUSPENSION_BYTES, kernel.suspensions.images.total)
        yield Sample(m.SUSPENDED, counters.suspended)
        yield Sample(m.SELF_TRIGGERS, counters.self_triggers)
        yield Sample(m.CHAINS_CUT, counters.chains_cut)
        yield Sample(m.RECOVERED, counters.recovered)
        yield Sample(m.RESYNCED, counters.resynced)
        yield Sample(m.RESIDENTS, len(kernel.residents))
        yield Sample(m.LOADED, counters.loaded)
        yield Sample(m.PUT_AWAY, counters.put_away)
        yield Sample(m.JOURNAL_BATCHES, kernel.turn.position)
        yield Sample(m.JOURNAL_LAG, kernel.turn.position - kernel.journal.folded)
        yield Sample(m.JOURNAL_BACKLOG, kernel.journal.backlog_bytes)
        yield Sample(m.JOURNAL_SYNCS, kernel.journal.syncs)
        stats = kernel.dispatcher.stats()
        for name, family in m.DISPATCH.items():
            if name in stats:
                yield Sample(family, stats[name])
        for name, family in m.BUS.items():
            yield Sample(family, getattr(self._bus, name))
        yield from by_status(m.HTTP_REQUESTS, self._http.requests)
        yield from kernel.stages.samples()
