"""Every metric of the gateway, by name and label, and their text in Prometheus' exposition format 0.0.4.

Numbers live where they arise (``counters``, ``stages``, the kernel, the dispatcher); ``http.metrics``
collects them when somebody asks. The text is written here, since ``prometheus_client`` keeps numbers of its
own behind a lock, and with a registry for the process, which would cost a hot path and bring nothing.

Labels take values of closed sets only (reasons, status codes, stages): no panel, tool, subject or path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Family(NamedTuple):
    """One metric: its name, its kind, its help text, and the name of its label ("" for none)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    label: str = ""


INFO: Final = Family("panels_info", "gauge", "Always 1; the label holds the version.", "version")
READY: Final = Family("panels_ready", "gauge", "Whether a worker can run a job.")
PANELS: Final = Family("panels_panels", "gauge", "Panels there are.")
STATE_BYTES: Final = Family("panels_state_bytes", "gauge", "State of the panels in memory, about.")
CONNECTIONS: Final = Family("panels_connections", "gauge", "WebSockets that are open.")
CONNECTIONS_TOTAL: Final = Family("panels_connections_total", "counter", "WebSockets that were accepted.")
STREAM_READERS: Final = Family(
    "panels_stream_readers", "gauge", "Long polls and responses of server-sent events that are open."
)
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
OVER_QUOTA: Final = Family(
    "panels_triggers_over_quota_total",
    "counter",
    "Triggers that were refused because a quota was used up, by quota and resource.",
    "quota",
)
SELF_SKIPPED: Final = Family(
    "panels_self_triggers_skipped_total",
    "counter",
    "Runs of tools by themselves that were skipped because they may not be run now.",
)
CIRCUITS: Final = Family(
    "panels_circuits_open", "gauge", "Tools that are suspended because they kept failing."
)
CIRCUITS_OPENED: Final = Family(
    "panels_circuits_opened_total", "counter", "Times that a tool was suspended because it kept failing."
)
CIRCUIT_REFUSED: Final = Family(
    "panels_triggers_circuit_open_total",
    "counter",
    "Triggers that were refused because their tool is suspended.",
)
FUEL: Final = Family("panels_fuel_total", "counter", "Fuel that handlers used.")
EXECUTION_SECONDS: Final = Family(
    "panels_execution_seconds_total", "counter", "Time that handlers ran, in seconds."
)
REFUSED_COMMITS: Final = Family(
    "panels_commits_refused_total", "counter", "Results that would have broken a bound or were not valid."
)
JOINED: Final = Family(
    "panels_triggers_joined_total",
    "counter",
    "Triggers that got the answer of a running one under their idempotency key.",
)
REPEATED: Final = Family(
    "panels_triggers_repeated_total", "counter", "Triggers whose idempotency key had been answered before."
)
SUSPENSION_BYTES: Final = Family(
    "panels_suspension_bytes", "gauge", "Bytes that handlers that wait keep, compressed."
)
SUSPENSIONS: Final = Family("panels_suspensions", "gauge", "Handlers that wait for an answer.")
SUSPENDED: Final = Family("panels_suspended_total", "counter", "Times that a handler began to wait.")
SELF_TRIGGERS: Final = Family(
    "panels_self_triggers_total", "counter", "Runs of tools that run by themselves."
)
CHAINS_CUT: Final = Family(
    "panels_trigger_chains_cut_total",
    "counter",
    "Runs that were refused because triggers caused one another.",
)
RECOVERED: Final = Family(
    "panels_resumes_recovered_total", "counter", "Clients that came back and were sent what they had missed."
)
RESYNCED: Final = Family(
    "panels_resumes_resynced_total", "counter", "Clients that came back and were sent the whole state."
)
RESIDENTS: Final = Family("panels_resident_panels", "gauge", "Panels in memory.")
LOADED: Final = Family("panels_panels_loaded_total", "counter", "Panels that were loaded from the journal.")
PUT_AWAY: Final = Family("panels_panels_put_away_total", "counter", "Panels that were put away as unused.")
JOURNAL_BATCHES: Final = Family(
    "panels_journal_batches_total", "counter", "Batches that were appended, ever."
)
JOURNAL_LAG: Final = Family("panels_journal_lag_batches", "gauge", "Batches that are not folded yet.")
JOURNAL_BACKLOG: Final = Family(
    "panels_journal_backlog_bytes", "gauge", "Bytes of the log that are not written or not folded yet."
)
JOURNAL_SYNCS: Final = Family(
    "panels_journal_syncs_total", "counter", "How often the log was synced to the disk (durability power)."
)
REFUSED: Final = Family(
    "panels_triggers_refused_total",
    "counter",
    "Triggers that were submitted and not run, by the code of their answer.",
    "code",
)
OUTBOX_BYTES: Final = Family(
    "panels_outbox_bytes", "gauge", "Bytes of frames that wait for clients that read slowly."
)
OUTBOX_MERGES: Final = Family(
    "panels_outbox_merges_total", "counter", "Times that the PATCHes that waited for a client were merged."
)
SENDING_BYTES: Final = Family(
    "panels_sending_bytes", "gauge", "Bytes of large states and answers that clients have not taken yet."
)
JOURNAL_FOLDING: Final = Family(
    "panels_journal_folding_up",
    "gauge",
    "Whether a folding process is there, and is not being started again.",
)
JOURNAL_DEATHS: Final = Family(
    "panels_journal_folding_deaths_total", "counter", "Folding processes that ended without being asked to."
)
JOURNAL_STORE: Final = Family("panels_journal_store_bytes", "gauge", "Size of the store on the disk.")
JOURNAL_FREE: Final = Family(
    "panels_journal_free_bytes", "gauge", "Bytes that are free on the file system of the data directory."
)
SYNC_SECONDS: Final = Family(
    "panels_journal_sync_seconds",
    "histogram",
    "How long a group of batches took to be written and synced (durability power).",
)
EXTENSION_CALLS: Final = Family(
    "panels_extension_calls_total", "counter", "Calls that handlers made, by kind.", "kind"
)
EXTENSION_ANSWERS: Final = Family(
    "panels_extension_answers_total",
    "counter",
    "Calls of configured extensions that ended, by how: ok, failed, or lost with the extension process.",
    "outcome",
)
EXTENSION_OPEN: Final = Family(
    "panels_extension_calls_open", "gauge", "Calls of configured extensions that are not answered yet."
)
EXTENSION_UP: Final = Family(
    "panels_extension_up", "gauge", "Whether the extension process is ready; absent where none is configured."
)
PANEL_FUEL: Final = Family(
    "panels_panel_fuel",
    "gauge",
    "Fuel used in the last whole minute by the panels that used the most, and by all others together.",
    "panel",
)
PANEL_FAILURES: Final = Family(
    "panels_panel_failures",
    "gauge",
    "Triggers that failed in the last whole minute, of the panels with the most and of all others together.",
    "panel",
)
REFUSALS: Final = Family(
    "panels_refusals_total",
    "counter",
    "Requests that were refused, and sockets that were cut, for what they were before they were looked at.",
    "reason",
)
HTTP_REQUESTS: Final = Family("panels_http_requests_total", "counter", "HTTP requests, by status.", "status")

#: What ``Dispatcher.stats`` calls a number, and the metric that shows it.
DISPATCH: Final[Mapping[str, Family]] = {
    "jobs": Family("panels_jobs", "gauge", "Triggers that were accepted and are not answered yet."),
    "job_bytes": Family(
        "panels_job_args_bytes", "gauge", "Arguments of the triggers that are not answered yet."
    ),
    "waiting": Family("panels_jobs_waiting", "gauge", "Triggers that no worker was sent yet."),
    "held": Family(
        "panels_jobs_held", "gauge", "Triggers that stand behind a handler of an exclusive tool, which waits."
    ),
    "compiling": Family(
        "panels_compiles_running", "gauge", "Handlers that pools were asked to compile and have not answered."
    ),
    "compiles_wanted": Family(
        "panels_compiles_wanted", "gauge", "Handlers that definitions wait for, in turn or being compiled."
    ),
    "in_flight": Family(
        "panels_jobs_in_flight", "gauge", "Triggers that a worker was sent and has not answered."
    ),
    "workers": Family("panels_workers", "gauge", "Sandbox processes that are connected."),
    "pools": Family("panels_pools", "gauge", "Pools of workers that are connected."),
    "panels": Family("panels_dispatched_panels", "gauge", "Panels that triggers are dispatched for."),
    "accepted": Family("panels_results_accepted_total", "counter", "Results of workers that were taken."),
    "stale": Family(
        "panels_results_stale_total", "counter", "Results that were dropped: nobody waited for them any more."
    ),
    "forged": Family(
        "panels_results_forged_total", "counter", "Results that were dropped: another worker had been asked."
    ),
    "missing": Family("panels_jobs_missing_total", "counter", "Triggers that a worker lacked something for."),
    "epochs": Family(
        "panels_epochs_total", "counter", "Times that a panel's worker had to begin from a known state."
    ),
    "snapshots": Family("panels_snapshots_total", "counter", "Whole states that were sent to workers."),
    "deltas": Family("panels_deltas_total", "counter", "Changes of states that were sent to workers."),
    "refused": Family(
        "panels_workers_refused_total",
        "counter",
        "Times that a worker or pool was turned away because it came too often, or there were too many.",
    ),
    "workers_lost": Family("panels_workers_lost_total", "counter", "Sandbox processes that were lost."),
    "hung": Family(
        "panels_workers_hung_total",
        "counter",
        "Sandbox processes that were lost because a run did not end, and are to be killed by their pools.",
    ),
    "moves": Family("panels_moves_total", "counter", "Panels that were given to another worker."),
}
#: What ``PoolReports`` calls a number, and the metric that shows it.
POOLS: Final[Mapping[str, Family]] = {
    "processes": Family(
        "panels_pool_processes", "gauge", "Sandbox processes that pools are to keep, as they report."
    ),
    "ready": Family("panels_pool_processes_ready", "gauge", "Those of them that serve."),
    "rss_bytes": Family("panels_pool_memory_bytes", "gauge", "Resident memory of all sandbox processes."),
    "started": Family(
        "panels_pool_starts_total", "counter", "Sandbox processes that were started, since their pool came."
    ),
    "crashed": Family(
        "panels_pool_crashes_total", "counter", "Sandbox processes that ended without having been told to."
    ),
    "killed": Family(
        "panels_pool_kills_total", "counter", "Sandbox processes that their pool killed: they hung or stayed."
    ),
    "cpu_ms": Family(
        "panels_pool_cpu_seconds_total", "counter", "CPU time of sandbox processes, in seconds."
    ),
}
#: What ``BrokerCounters`` calls a number, and the metric that shows it.
BUS: Final[Mapping[str, Family]] = {
    "frames_in": Family("panels_bus_frames_received_total", "counter", "Frames from workers."),
    "frames_out": Family("panels_bus_frames_sent_total", "counter", "Frames to workers."),
    "messages_in": Family(
        "panels_bus_messages_received_total", "counter", "Messages in the frames from workers."
    ),
    "bad_frames": Family(
        "panels_bus_bad_frames_total", "counter", "Frames from workers that broke the protocol."
    ),
    "unasked_frames": Family(
        "panels_bus_unasked_frames_total",
        "counter",
        "Frames from workers that were dropped unread: larger than what their senders were asked for.",
    ),
    "throttled_frames": Family(
        "panels_bus_throttled_frames_total",
        "counter",
        "Frames from workers that were dropped unread: their senders had sent too much.",
    ),
    "lies": Family(
        "panels_bus_invalid_results_total",
        "counter",
        "Results that no handler of the tool can have had; their senders were dropped.",
    ),
    "unroutable": Family(
        "panels_bus_unroutable_total", "counter", "Frames that had no worker to go to any more."
    ),
    "strangers_dropped": Family(
        "panels_bus_strangers_dropped_total",
        "counter",
        "Frames of peers that were not admitted, and no Hello.",
    ),
    "hellos_refused": Family(
        "panels_bus_hellos_refused_total",
        "counter",
        "Hellos that proved nothing, or came too late or too often.",
    ),
    "breaches": Family(
        "panels_bus_breaches_total", "counter", "Admitted peers that said what they may not, and are out."
    ),
}

FAMILIES: Final = (
    INFO, READY, PANELS, STATE_BYTES, CONNECTIONS, CONNECTIONS_TOTAL, STREAM_READERS, REJECTED,
    SLOW_CONSUMERS, OUTBOX_BYTES, OUTBOX_MERGES, SENDING_BYTES, TRIGGERS, COMPLETED, FAILED, REFUSED,
    OVERLOADED, OVER_QUOTA, CIRCUITS, CIRCUITS_OPENED, CIRCUIT_REFUSED, FUEL, EXECUTION_SECONDS,
    REFUSED_COMMITS, JOINED, REPEATED, SUSPENSIONS, SUSPENSION_BYTES, SUSPENDED, SELF_TRIGGERS, SELF_SKIPPED,
    CHAINS_CUT, EXTENSION_CALLS, EXTENSION_ANSWERS, EXTENSION_OPEN, EXTENSION_UP, RECOVERED, RESYNCED,
    RESIDENTS, LOADED, PUT_AWAY, JOURNAL_BATCHES, JOURNAL_LAG, JOURNAL_BACKLOG, JOURNAL_SYNCS, JOURNAL_STORE,
    JOURNAL_FREE, JOURNAL_FOLDING, JOURNAL_DEATHS,
    SYNC_SECONDS, *DISPATCH.values(), *POOLS.values(), *BUS.values(), HTTP_REQUESTS, REFUSALS, PANEL_FUEL,
    PANEL_FAILURES,
)  # fmt: skip


class Sample(NamedTuple):
    """A family's value for one value of its label.

    ``suffix`` and ``bound`` (the label le) are a histogram's.
    """

    family: Family
    value: float
    label: str = ""
    suffix: Literal["", "_bucket", "_sum", "_count"] = ""
    bound: str = ""


def by_status(family: Family, counts: Mapping[int, int]) -> list[Sample]:
    """A sample for each HTTP status."""
    return [Sample(family, count, str(status)) for status, count in sorted(counts.items())]


def exposition(samples: Iterable[Sample]) -> bytes:
    """``samples``, grouped by family, as Prometheus reads them."""
    lines: list[str] = []
    last: Family | None = None
    for family, value, label, suffix, bound in samples:
        if family is not last:
            lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
            last = family
        labels = [f'{family.label}="{label}"'] if family.label else []
        if bound:
            labels.append(f'le="{bound}"')
        braces = f"{{{','.join(labels)}}}" if labels else ""
        lines.append(f"{family.name}{suffix}{braces} {value:.9g}" if isinstance(value, float)
                     else f"{family.name}{suffix}{braces} {value}")  # fmt: skip
    return ("\n".join(lines) + "\n").encode()
