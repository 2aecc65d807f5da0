"""Every metric of the gateway, by name and label, and their text in Prometheus' exposition format 0.0.4.

Numbers live where they arise, as plain integers that cost nothing to count (``kernel.Counters``, the dispatcher's stats,
``BrokerCounters``, ``HttpCounters``); they are read here when somebody asks. The text is written here too, since ``prometheus_client`` keeps
numbers of its own behind a lock, and with a registry for the process, which would cost a hot path and bring nothing.

Labels take values of closed sets only (reasons, status codes, roles): no panel, tool, subject or path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from panels_shared import __version__

if TYPE_CHECKING:
    from panels_gateway.bus.broker import BrokerCounters
    from panels_gateway.kernel.kernel import Kernel

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric: its name, whether it only goes up, what it says, and the name of its label, "" for none."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    label: str = ""


INFO: Final = Family("panels_info", "gauge", "Always 1; the label holds the version.", "version")
READY: Final = Family("panels_ready", "gauge", "Whether a worker can run a job.")
PANELS: Final = Family("panels_panels", "gauge", "Panels there are.")
STATE_BYTES: Final = Family("panels_state_bytes", "gauge", "State of all panels, as JSON.")
CONNECTIONS: Final = Family("panels_connections", "gauge", "WebSockets that are open.")
CONNECTIONS_TOTAL: Final = Family("panels_connections_total", "counter", "WebSockets that were accepted.")
REJECTED: Final = Family(
    "panels_upgrades_rejected_total",
    "counter",
    "WebSocket upgrades that were refused, by HTTP status.",
    "status",
)
SLOW_CONSUMERS: Final = Family(
    "panels_slow_consumers_total", "counter", "WebSockets that were closed because they read too slowly."
)
TRIGGERS: Final = Family("panels_triggers_total", "counter", "Triggers that were accepted.")
COMPLETED: Final = Family("panels_triggers_completed_total", "counter", "Triggers that ended with a RESULT.")
FAILED: Final = Family(
    "panels_triggers_failed_total",
    "counter",
    "Triggers that ended with EXECUTION_ERROR, by reason.",
    "reason",
)
OVERLOADED: Final = Family("panels_triggers_overloaded_total", "counter", "Triggers that met a full queue.")
REFUSED_COMMITS: Final = Family(
    "panels_commits_refused_total", "counter", "Results that would have broken a bound or were not valid."
)
DISPATCH: Final = Family(
    "panels_dispatch", "gauge", "What the dispatcher holds and has seen, by kind.", "kind"
)
BUS: Final = Family(
    "panels_bus_total", "counter", "Frames and messages between gateway and workers, by kind.", "kind"
)
HTTP_REQUESTS: Final = Family("panels_http_requests_total", "counter", "HTTP requests, by status.", "status")

FAMILIES: Final = (
    INFO, READY, PANELS, STATE_BYTES, CONNECTIONS, CONNECTIONS_TOTAL, REJECTED, SLOW_CONSUMERS, TRIGGERS, COMPLETED, FAILED,
    OVERLOADED, REFUSED_COMMITS, DISPATCH, BUS, HTTP_REQUESTS,
)  # fmt: skip


@dataclass(slots=True)
class HttpCounters:
    """What the HTTP side has answered, by status."""

    requests: dict[int, int] = field(default_factory=dict[int, int])
    upgrades_rejected: dict[int, int] = field(default_factory=dict[int, int])

    def count_request(self, status: int) -> None:
        """One request was answered."""
        self.requests[status] = self.requests.get(status, 0) + 1

    def count_rejected_upgrade(self, status: int) -> None:
        """One upgrade was refused."""
        self.upgrades_rejected[status] = self.upgrades_rejected.get(status, 0) + 1


class Sample(NamedTuple):
    """A family's value, for one value of its label."""

    family: Family
    value: float
    label: str = ""


def collect(kernel: Kernel, http: HttpCounters, bus: BrokerCounters) -> Iterator[Sample]:
    """All values as they are now; grouped by family. Costs O(panels)."""
    counters = kernel.counters
    yield Sample(INFO, 1, __version__)
    yield Sample(READY, int(kernel.ready))
    yield Sample(PANELS, len(kernel.panels))
    yield Sample(STATE_BYTES, sum(panel.state_bytes for panel in kernel.panels.values()))
    yield Sample(CONNECTIONS, counters.connections)
    yield Sample(CONNECTIONS_TOTAL, counters.connections_total)
    yield from _by_status(REJECTED, http.upgrades_rejected)
    yield Sample(SLOW_CONSUMERS, counters.slow_consumers)
    yield Sample(TRIGGERS, counters.triggers)
    yield Sample(COMPLETED, counters.completed)
    for reason, count in counters.failed.items():
        yield Sample(FAILED, count, reason.value)
    yield Sample(OVERLOADED, counters.overloaded)
    yield Sample(REFUSED_COMMITS, counters.refused_commits)
    for kind, value in sorted(kernel.dispatcher.stats().items()):
        yield Sample(DISPATCH, value, kind)
    for bus_field in fields(bus):
        yield Sample(BUS, getattr(bus, bus_field.name), bus_field.name)
    yield from _by_status(HTTP_REQUESTS, http.requests)


def _by_status(family: Family, counts: Mapping[int, int]) -> Iterator[Sample]:
    for status, count in sorted(counts.items()):
        yield Sample(family, count, str(status))


def exposition(samples: Iterable[Sample]) -> bytes:
    """``samples``, grouped by family, as Prometheus reads them."""
    lines: list[str] = []
    last: Family | None = None
    for family, value, label in samples:
        if family is not last:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            last = family
        labels = f'{{{family.label}="{label}"}}' if family.label else ""
        lines.append(
            f"{family.name}{labels} {value:g}"
            if isinstance(value, float)
            else f"{family.name}{labels} {value}"
        )
    return ("\n".join(lines) + "\n").encode()
