"""One run: panels are made, clients connect, trigger for a while, and everything is verified."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from picows import ws_connect

from benchmarks.load.client import LoadClient, Samples, clock
from benchmarks.load.system import System

#: How long answers may take after the last trigger was sent, in seconds.
DRAIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the server."""

    panels: int = 16
    clients: int = 1
    window: int = 4
    duration_s: float = 5.0
    warmup_s: float = 1.0
    tool: str = "increment"
    args: str = "{}"
    listeners: int = 0
    allow_errors: bool = False


@dataclass(slots=True)
class Report:
    """What was measured, and what was wrong."""

    name: str
    load: Load
    answered: int = 0
    succeeded: int = 0
    duration_s: float = 0.0
    per_s: float = 0.0
    deliveries_per_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    server_cpu_us: float = 0.0
    worker_cpu_us: float = 0.0
    #: CPU of the clients, which run in one process on the same machine
    client_cpu_us: float = 0.0
    #: 1.0 is one core
    server_busy: float = 0.0
    client_busy: float = 0.0
    server_rss_bytes: int = 0
    worker_rss_bytes: int = 0
    patches: int = 0
    events: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    #: per tenth of a second of the run: triggers/s, p50 and p99 in ms
    timeline: list[tuple[float, float, float, float]] = field(default_factory=list)
    #: milliseconds, and how many per cent were answered within
    distribution: list[tuple[float, float]] = field(default_factory=list)


Definition = Callable[[str], dict[str, Any]]


async def run(
    system: System, load: Load, definition: Definition, *, progress: bool = True, prefix: str = "load"
) -> Report:
    """Makes panels ``prefix-0`` …, loads them and verifies them. Deletes nothing; see ``delete``."""
    samples = Samples()
    ids = [f"{prefix}-{number}" for number in range(load.panels)]
    for panel_id in ids:
        await asyncio.to_thread(system.http, "POST", "/panels", definition(panel_id))
    clients: list[LoadClient] = []
    for number, panel_id in enumerate(ids):
        for index in range(load.clients + load.listeners):
            window = load.window if index < load.clients else 0
            clients.append(await _connect(system, samples, load, panel_id, f"c{number}.{index}", window))
    await _until(lambda: all(client.connected for client in clients), 30.0)

    start = clock()
    measured_from = start + load.warmup_s
    for client in clients:
        client.begin(start)
    ticker = Ticker(samples, load.warmup_s + load.duration_s) if progress else None
    await _sleep(load.warmup_s, ticker)
    cpu_before = (system.server_cpu_s(), system.worker_cpu_s(), time.process_time())
    answered_before, patches_before, events_before = len(samples.at_s), samples.patches, samples.events
    begin = clock()
    await _sleep(load.duration_s, ticker)
    end = clock()
    answered = len(samples.at_s) - answered_before
    deliveries = samples.patches - patches_before + samples.events - events_before + answered
    server_cpu = system.server_cpu_s() - cpu_before[0]
    worker_cpu = system.worker_cpu_s() - cpu_before[1]
    client_cpu = time.process_time() - cpu_before[2]
    memory = (system.server_rss_bytes(), system.worker_rss_bytes())
    for client in clients:
        client.stop()
    drained = await _until(lambda: not any(client.in_flight for client in clients), DRAIN_S)
    if ticker is not None:
        ticker.end()
    if not drained:
        lost = sum(len(client.in_flight) for client in clients)
        samples.violate(f"{lost} triggers were not answered within {DRAIN_S:.0f} s")
    await _verify_panels(system, load, samples, ids, clients)
    for client in clients:
        client.leave()

    elapsed = end - begin
    count = max(1, answered)
    latencies = sorted(
        latency
        for at, latency in zip(samples.at_s, samples.latency_s, strict=True)
        if measured_from - start <= at <= end - start
    )
    return Report(
        name=system.name,
        load=load,
        answered=sum(client.answered for client in clients),
        succeeded=sum(client.succeeded for client in clients),
        duration_s=elapsed,
        per_s=answered / elapsed,
        deliveries_per_s=deliveries / elapsed,
        latency_ms={name: percentile(latencies, q) * 1e3 for name, q in PERCENTILES},
        server_cpu_us=server_cpu / count * 1e6,
        worker_cpu_us=worker_cpu / count * 1e6,
        client_cpu_us=client_cpu / count * 1e6,
        server_busy=server_cpu / elapsed,
        client_busy=client_cpu / elapsed,
        server_rss_bytes=memory[0],
        worker_rss_bytes=memory[1],
        patches=samples.patches,
        events=samples.events,
        errors=samples.errors,
        violations=samples.violations,
        timeline=timeline(samples, end - start),
        distribution=[(percentile(latencies, q / 1_000) * 1e3, q / 10) for q in _QUANTILES]
        if latencies
        else [],
    )


#: Of a thousand: where the distribution is looked at.
_QUANTILES = (*range(0, 990, 10), *range(990, 1_001))
PERCENTILES = (("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))


def percentile(ordered: list[float], q: float) -> float:
    """The ``q`` quantile of an ascending list by nearest rank; 0 for an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def timeline(samples: Samples, end_s: float, step_s: float = 0.1) -> list[tuple[float, float, float, float]]:
    """Per ``step_s``: the time, answers per second, and their p50 and p99 in milliseconds."""
    bins: list[list[float]] = [[] for _ in range(max(1, math.ceil(end_s / step_s)))]
    for at, latency in zip(samples.at_s, samples.latency_s, strict=True):
        index = int(at / step_s)
        if index < len(bins):
            bins[index].append(latency)
    rows = []
    for number, latencies in enumerate(bins):
        latencies.sort()
        row = (
            number * step_s,
            len(latencies) / step_s,
            percentile(latencies, 0.5) * 1e3,
            percentile(latencies, 0.99) * 1e3,
        )
        rows.append(row)
    return rows


async def _connect(
    system: System, samples: Samples, load: Load, panel_id: str, name: str, window: int
) -> LoadClient:
    def make() -> LoadClient:
        client = LoadClient(
            samples,
            name=name,
            window=window,
            tool=load.tool,
            args=load.args.encode(),
            start_s=0.0,
            allow_errors=load.allow_errors,
        )
        client.panel_id = panel_id
        return client

    _, client = await ws_connect(make, system.websocket_url(panel_id), use_aiofastnet=False)
    assert isinstance(client, LoadClient)
    return client


async def _verify_panels(
    system: System, load: Load, samples: Samples, ids: list[str], clients: list[LoadClient]
) -> None:
    for panel_id in ids:
        watchers = [client for client in clients if client.panel_id == panel_id]
        succeeded = sum(client.succeeded for client in watchers)
        state = await asyncio.to_thread(system.http, "GET", f"/panels/{panel_id}/state")
        count = state.get("state", state).get("count")
        if count != succeeded:
            samples.violate(f"{panel_id}: expected a count of {succeeded}, got {count}")
        if not any(client.closed_early for client in watchers):
            caught_up = await _until(
                lambda: all(c.seq == c.events == succeeded for c in watchers),  # noqa: B023
                5.0,
            )
            if not caught_up:
                heard = sorted({(client.seq, client.events) for client in watchers})[:5]
                samples.violate(
                    f"{panel_id}: expected every client to hear {succeeded} versions and events, got {heard}"
                )


async def delete(system: System, load: Load, prefix: str) -> None:
    """Deletes the panels of a run."""
    for number in range(load.panels):
        await asyncio.to_thread(system.http, "DELETE", f"/panels/{prefix}-{number}")


class Ticker:
    """Tells once a second how a run goes: one line that changes on a terminal, a line each time elsewhere."""

    def __init__(self, samples: Samples, total_s: float) -> None:
        self._samples = samples
        self._total_s = total_s
        self._begun_s = self._told_s = clock()
        self._seen = 0
        self._terminal = sys.stderr.isatty()

    def tick(self) -> None:
        """Tells, if a second has passed."""
        now = clock()
        if now - self._told_s < 0.99:
            return
        recent = sorted(self._samples.latency_s[self._seen :])
        rate = len(recent) / (now - self._told_s)
        self._told_s, self._seen = now, self._seen + len(recent)
        elapsed_s = now - self._begun_s
        told = (
            f"{elapsed_s:5.1f}/{self._total_s:.0f} s {rate:9,.0f} triggers/s"
            f"   p50 {percentile(recent, 0.5) * 1e3:.2f} ms"
        )
        if self._samples.violations:
            told += f"   {len(self._samples.violations)} violations"
        if self._terminal:
            done = round(min(1.0, elapsed_s / self._total_s) * 24)
            sys.stderr.write(f"\r\033[K  {'█' * done}{'░' * (24 - done)} {told}")
        else:
            sys.stderr.write(f"  {told}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Takes the line away."""
        if self._terminal:
            sys.stderr.write("\r\033[K")


async def _sleep(seconds: float, ticker: Ticker | None) -> None:
    until = clock() + seconds
    while (left := until - clock()) > 0:
        await asyncio.sleep(min(left, 0.25))
        if ticker is not None:
            ticker.tick()


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = clock() + timeout_s
    while not condition():
        if clock() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
