"""Collects every number of the gateway when somebody asks for ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

from panels_gateway.extensions.client import ClientState
from panels_gateway.observe import metrics as m
from panels_gateway.observe.counters import BrokerCounters, ClientCounters, HttpCounters, RefusalCounters
from panels_gateway.observe.metrics import Sample, by_status
from panels_gateway.observe.pools import LEVELS, PoolReports
from panels_gateway.observe.process import ProcessMetrics
from panels_shared import __version__

if TYPE_CHECKING:
    from panels_gateway.kernel.kernel import Kernel

#: The labels of what was over a quota, which are shown before the first was.
QUOTAS: Final = tuple(f"{kind}_{what}" for kind in ("subject", "panel", "tool") for what in ("fuel", "time"))
#: What stands for all other panels; no panel can have this id.
OTHERS: Final = "(others)"
#: How long the text is kept, in seconds: making it costs about a millisecond, so that however many ask have
#: half a per cent of the loop.
KEPT_S: Final = 0.25


class Metrics:
    """Reads everything that counts and shows it as text, at a cost that does not depend on how many panels or
    clients there are. The text is kept for ``KEPT_S``, so that many who ask cost what one does.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        http: HttpCounters,
        clients: ClientCounters,
        bus: BrokerCounters,
        refusals: RefusalCounters,
        reports: PoolReports | None = None,
    ) -> None:
        self._kernel = kernel
        self._refusals = refusals
        self._http = http
        self._clients = clients
        self._bus = bus
        self._reports = reports if reports is not None else PoolReports()
        self._process = ProcessMetrics()
        self._text = b""
        self._until_s = 0.0

    def exposition(self, *, panels: bool = False) -> bytes:
        """The values of all metrics, at most ``KEPT_S`` old, as text for Prometheus; with ``panels`` also
        those that name panels, which are for administrators alone.
        """
        now_s = self._kernel.clock()
        if now_s >= self._until_s or not self._text:
            self._text = m.exposition(chain(self.samples(), self._process.samples()))
            self._until_s = now_s + KEPT_S
        return self._text + m.exposition(self._panels()) if panels else self._text

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
        yield Sample(m.STREAM_READERS, counters.stream_readers)
        yield from by_status(m.REJECTED, self._clients.upgrades_rejected)
        yield Sample(m.SLOW_CONSUMERS, self._clients.slow_consumers)
        yield Sample(m.OUTBOX_BYTES, self._clients.outboxes.bytes)
        yield Sample(m.OUTBOX_MERGES, self._clients.outboxes.merged)
        yield Sample(m.SENDING_BYTES, kernel.images.used_bytes)
        yield Sample(m.TRIGGERS, counters.triggers)
        yield Sample(m.COMPLETED, counters.completed)
        for reason, count in counters.failed.items():
            yield Sample(m.FAILED, count, reason.value)
        for code, count in counters.refused.items():
            yield Sample(m.REFUSED, count, code.value)
        yield Sample(m.OVERLOADED, counters.overloaded)
        for label in QUOTAS:
            yield Sample(m.OVER_QUOTA, counters.over_quota.get(label, 0), label)
        yield Sample(m.CIRCUITS, kernel.breakers.open)
        yield Sample(m.CIRCUITS_OPENED, counters.circuits_opened)
        yield Sample(m.CIRCUIT_REFUSED, counters.circuit_refused)
        yield Sample(m.FUEL, counters.fuel)
        yield Sample(m.EXECUTION_SECONDS, counters.execution_us / 1e6)
        yield Sample(m.REFUSED_COMMITS, counters.refused_commits)
        yield Sample(m.JOINED, counters.joined)
        yield Sample(m.REPEATED, counters.repeated)
        yield Sample(m.SUSPENSIONS, kernel.suspensions.count)
        yield Sample(m.SUSPENSION_BYTES, kernel.suspensions.images.total)
        yield Sample(m.SUSPENDED, counters.suspended)
        yield Sample(m.SELF_TRIGGERS, counters.self_triggers)
        yield Sample(m.SELF_SKIPPED, counters.self_skipped)
        yield Sample(m.CHAINS_CUT, counters.chains_cut)
        yield from self._extensions()
        yield Sample(m.RECOVERED, counters.recovered)
        yield Sample(m.RESYNCED, counters.resynced)
        yield Sample(m.RESIDENTS, len(kernel.residents))
        yield Sample(m.LOADED, counters.loaded)
        yield Sample(m.PUT_AWAY, counters.put_away)
        yield from self._journal()
        stats = kernel.dispatcher.stats()
        for name, family in m.DISPATCH.items():
            if name in stats:
                yield Sample(family, stats[name])
        for name, family in m.POOLS.items():
            yield Sample(family, self._pool(name))
        for name, family in m.BUS.items():
            yield Sample(family, getattr(self._bus, name))
        yield from by_status(m.HTTP_REQUESTS, self._http.requests)
        for refusal, count in self._refusals.counts.items():
            yield Sample(m.REFUSALS, count, refusal)
        yield from kernel.stages.samples()

    def _journal(self) -> Iterator[Sample]:
        journal, position = self._kernel.journal, self._kernel.turn.position
        disk, folding = journal.disk(), journal.folding
        yield Sample(m.JOURNAL_BATCHES, position)
        yield Sample(m.JOURNAL_LAG, position - journal.folded)
        yield Sample(m.JOURNAL_BACKLOG, journal.backlog_bytes)
        yield Sample(m.JOURNAL_SYNCS, journal.syncs)
        yield Sample(m.JOURNAL_STORE, disk.store_bytes)
        yield Sample(m.JOURNAL_FREE, disk.free_bytes)
        yield Sample(m.JOURNAL_FOLDING, int(folding.up))
        yield Sample(m.JOURNAL_DEATHS, folding.deaths)
        yield from journal.sync_seconds.samples(m.SYNC_SECONDS)

    def _extensions(self) -> Iterator[Sample]:
        counters, client = self._kernel.counters, self._kernel.calls.client
        for kind, count in counters.extension_calls.items():
            yield Sample(m.EXTENSION_CALLS, count, kind)
        for outcome, count in counters.extension_answers.items():
            yield Sample(m.EXTENSION_ANSWERS, count, outcome)
        yield Sample(m.EXTENSION_OPEN, client.open_calls if client is not None else 0)
        if client is not None:
            yield Sample(m.EXTENSION_UP, int(client.state is ClientState.READY))

    def _pool(self, name: str) -> float:
        reports = self._reports
        if name in LEVELS:
            return reports.level(name)
        return reports.counts[name] / 1_000 if name == "cpu_ms" else reports.counts[name]

    def _panels(self) -> Iterator[Sample]:
        """What names panels, and is for administrators alone."""
        now_s = self._kernel.clock()
        for family, panels in (
            (m.PANEL_FUEL, self._kernel.fuel),
            (m.PANEL_FAILURES, self._kernel.failures),
        ):
            panels.look(now_s)
            for panel, amount in panels.top:
                yield Sample(family, amount, panel)
            yield Sample(family, panels.rest, OTHERS)
